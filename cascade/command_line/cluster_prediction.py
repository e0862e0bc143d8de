"""``cascade predict --engine ray``: the same rows, computed by the machines of a cluster."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from cascade.command_line.inputs import find_inputs
from cascade.command_line.metadata import check_cluster_metadata
from cascade.command_line.outputs import refuse_taken, say
from cascade.command_line.parser import OK, PARTIAL, CommandParser
from cascade.command_line.patients import TablePatients
from cascade.command_line.prediction_options import use_of
from cascade.errors import ConfigError
from cascade.imaging import FoundFile
from cascade.models.runtimes import Runtime, choose_runtime, model_identity
from cascade.progress import progress
from cascade.version import __version__

if TYPE_CHECKING:
    from cascade.cluster.plan import Run
    from cascade.cluster.shards import Finished

Engine = Literal["local", "ray"]
log = logging.getLogger(__name__)
SHARD_ROWS = 256
_DECIDING = (
    "tta", "batch_size", "precision", "cutoff", "operating_point", "coverage",
    "pixels_per_millimetre", "age", "sex", "site", "max_megapixels", "allow_truncated", "inputs",
    "not_recursive",
)  # fmt: skip
"""Flags that decide what the rows of a run say."""


def add_cluster(parser: CommandParser) -> None:
    """Add the flags of a prediction on a cluster."""
    parser.add_argument(
        "--engine",
        type=Engine,
        default="local",
        help="local: this process; ray: the cluster that RAY_ADDRESS names, or all cores of this "
        "machine, with Parquet files as output; inputs, also lists (.txt) and Parquet files of "
        "images, and output may then be URIs such as s3://bucket/folder",
    )
    parser.add_argument(
        "--shard_rows",
        type=int,
        default=SHARD_ROWS,
        help="inputs for each Parquet file of --engine ray, which is predicted by one worker",
    )
    parser.add_argument(
        "--mask_format",
        type=Literal["png", "rle"],
        default="png",
        help="what --save_masks puts into the Parquet files of --engine ray: PNG, or run lengths "
        "as in COCO",
    )


def check_cluster_flags(arguments: Any) -> None:
    """Refuse flags that the engine does not have.

    Raises:
        ConfigError: one is of the other engine, or has an impossible value.
    """
    if arguments.engine == "ray":
        if arguments.save_overlays:
            raise ConfigError("--save_overlays is not for --engine ray, whose results are tables")
        if arguments.limit is not None:
            raise ConfigError("--limit is not for --engine ray; name fewer inputs")
        if arguments.shard_rows < 1:
            raise ConfigError(f"--shard_rows {arguments.shard_rows}: give 1 or more")
        return
    for flag, default in (("shard_rows", SHARD_ROWS), ("mask_format", "png")):
        if arguments[flag] != default:
            raise ConfigError(f"--{flag} is for --engine ray")


def predict_on_cluster(arguments: Any) -> int:
    """Plan a run or go on with one, predict what is missing, and say how many inputs failed.

    Returns:
        The exit code.

    Raises:
        MissingExtraError: Ray is not installed.
    """
    from cascade.cluster.plan import has_run
    from cascade.cluster.ray_engine import connected, pool_of_cluster, predict_shards, require_ray
    from cascade.cluster.storage import absolute

    require_ray()
    _refuse_one_process(arguments)
    if any(TablePatients.of([item]).ids for item in arguments.inputs if "://" not in item):
        log.warning(
            "warning: --engine ray does not compare the lesions of a patient, and its rows have no "
            "patient_id; cascade evaluate --predictions does so for a table with classes"
        )
    output = absolute(arguments.output)
    refuse_taken(arguments, [output] if has_run(output) else [])
    with connected():
        about = {"device": arguments.device, "threads": arguments.threads}
        _, device = pool_of_cluster(shards=1, **about)
        model, load, settings = _settings(arguments, device)
        run = _run(arguments, output, settings)
        kept = _finished(run)
        left = [shard for shard in range(run.shards) if shard not in kept]
        done = list(kept.values())
        begun = time.monotonic()
        if left:
            pool, _ = pool_of_cluster(shards=len(left), **about)
            say(
                f"{run.rows} inputs in {run.shards} shards, {len(kept)} finished before; "
                f"{pool.workers} workers with {pool.cpus} CPUs"
                + (f" and {pool.gpus:.2g} GPUs" if pool.gpus else "")
            )
            if load["runtime"] != "torch":
                load["threads"] = pool.cpus
            shards = predict_shards(run, left, pool=pool, model=model, load=load)
            done += progress(shards, description="predicting", total=len(left), unit="shard")
    return _report(run, done, kept, seconds=time.monotonic() - begun)


def _report(
    run: Run, done: Sequence[Finished], kept: Mapping[int, Finished], *, seconds: float
) -> int:
    from cascade.cluster.plan import ROWS, write_manifest
    from cascade.cluster.storage import joined

    failed = sum(item.failed for item in done)
    earlier = sum(item.rows for item in kept.values())
    write_manifest(
        run, finished={"rows": run.rows, "failed": failed, "kept": earlier, "seconds": seconds}
    )
    before = f", {earlier} kept from before" if kept else ""
    again = " (--overwrite tries them again)" if failed else ""
    text = f"written: {joined(run.output, ROWS)}, {run.rows} rows, {failed} failed{again}{before}"
    say(text, wrong=bool(failed))
    return PARTIAL if failed else OK


def _refuse_one_process(arguments: Any) -> None:
    from cascade.cluster.storage import seen_by_one_process

    for text in (*arguments.inputs, arguments.output):
        if seen_by_one_process(text):
            raise ConfigError(
                f"{text}: is in the memory of one process, which workers cannot see; give a place "
                "that all machines reach"
            )


def _settings(arguments: Any, device: str) -> tuple[str | None, dict[str, Any], dict[str, Any]]:
    """The model, how workers load it, and everything that decides what rows say."""
    exported = arguments.model is not None and Path(arguments.model).is_dir()
    on_gpu = device.startswith("cuda") and arguments.runtime == "auto" and not exported
    asked: Runtime = "torch" if on_gpu else arguments.runtime
    path, runtime = choose_runtime(arguments.model, asked, "cpu")
    check_cluster_metadata(arguments, path)
    load = {
        "device": device, "runtime": runtime, "precision": arguments.precision,
        "coverage": arguments.coverage, **use_of(arguments),
    }  # fmt: skip
    settings = {
        "cascade": __version__,
        "model_sha256": model_identity(path),
        "runtime": runtime,
        "masks": arguments.mask_format if arguments.save_masks else None,
        **{name: arguments[name] for name in _DECIDING},
    }
    return arguments.model and str(path), load, settings


def _run(arguments: Any, output: str, settings: Mapping[str, Any]) -> Run:
    """The run that is there, or a new plan."""
    from cascade.cluster.inputs import planned_inputs
    from cascade.cluster.plan import has_run, make_run, read_run, remove_run, require_same

    if has_run(output):
        if arguments.resume:
            run = read_run(output)
            require_same(run, settings, arguments.shard_rows)
            return run
        remove_run(output)

    def local(item: str) -> Iterator[FoundFile]:
        return find_inputs([item], recursive=not arguments.not_recursive)

    inputs = planned_inputs(arguments.inputs, local, recursive=not arguments.not_recursive)
    return make_run(output, inputs, settings=settings, shard_rows=arguments.shard_rows)


def _finished(run: Run) -> dict[int, Finished]:
    """The shards that an earlier run has finished."""
    from cascade.cluster.shards import finished
    from cascade.pipeline.stream import in_order

    numbers = range(run.shards)
    found = in_order(lambda shard: finished(run, shard), numbers, workers=8)
    return {shard: item for shard, item in zip(numbers, found, strict=True) if item is not None}
