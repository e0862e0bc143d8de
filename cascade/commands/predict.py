"""Predict files, folders, patterns and tables of images; one CSV row for each input."""

from __future__ import annotations

import contextlib
import itertools
import logging
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TextIO

from cascade.commands.arguments import OK, PARTIAL, CommandParser, run
from cascade.commands.options import (
    add_coverage,
    add_cutoff,
    add_device,
    add_operating_point,
    add_runtime,
    add_switch,
    runtime_options,
)
from cascade.commands.outputs import say
from cascade.errors import ConfigError, DataError, ImageError
from cascade.files import csv_line
from cascade.imaging import FoundFile, ImageLimits, expand_sources, safe_stem
from cascade.measurements import check_scale
from cascade.progress import progress

if TYPE_CHECKING:
    from cascade.pipeline import Cascade, Failure, Prediction

log = logging.getLogger(__name__)

COLUMNS = (
    "name", "path", "label", "probability_benign", "probability_malignant", "box_top", "box_left",
    "box_bottom", "box_right", "height", "width", "area_fraction", "diameter_pixels",
    "diameter_millimetres", "asymmetry", "border_irregularity", "colour_variegation",
    "prediction_set", "mask_score", "unfamiliarity", "warnings", "error", "mask", "overlay",
)  # fmt: skip
MEASURED = (
    "diameter_pixels", "diameter_millimetres", "asymmetry", "border_irregularity",
    "colour_variegation",
)  # fmt: skip
"""Columns that are fields of a prediction's measurements, empty without a lesion."""


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade predict",
        "Mask, box and probability for each image. Broken inputs get a row with their error, and "
        "the exit code is then 3. Research software, not for diagnosis.",
        example="cascade predict photo.jpg folder/ 'more/*.png' table.csv "
        "--model models/cascade.safetensors --output predictions --save_overlays",
    )
    parser.add_argument(
        "inputs",
        nargs="+",
        type=str,
        help="image files, folders, patterns, or CSV tables with a column name or path",
    )
    parser.add_argument(
        "--model",
        type=str,
        default=None,
        help="file of a cascade, or folder of an exported one; by default the cascade in models/, "
        "or the one that comes with the library",
    )
    parser.add_argument(
        "--output", type=str, default="predictions", help="folder for predictions.csv and pictures"
    )
    add_device(parser)
    add_runtime(parser)
    parser.add_argument(
        "--tta",
        type=Literal["none", "flips", "dihedral"],
        default="none",
        help="test-time augmentation: average 1, 4 or 8 views",
    )
    add_cutoff(parser)
    add_operating_point(parser)
    add_coverage(parser)
    parser.add_argument("--batch_size", type=int, default=1, help="images at a time; 32 on CUDA")
    parser.add_argument(
        "--max_megapixels", type=float, default=50.0, help="larger images get an error row"
    )
    parser.add_argument(
        "--pixels_per_millimetre",
        type=float,
        default=None,
        help="scale of the images, the same for all; without it diameters are in pixels only",
    )
    add_switch(parser, "--save_masks", "write masks/STEM.png, 0 and 255, original size")
    add_switch(parser, "--save_overlays", "write overlays/STEM.jpg with the outline")
    add_switch(parser, "--allow_truncated", "predict damaged JPEGs too, with a warning")
    add_switch(parser, "--not_recursive", "leave out folders within folders")
    add_switch(parser, "--resume", "keep the rows that predictions.csv has and go on")
    add_switch(parser, "--overwrite", "replace predictions.csv")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    folder = Path(arguments.output)
    table = folder / "predictions.csv"
    check_scale(arguments.pixels_per_millimetre)
    kept = _earlier_rows(table, resume=arguments.resume, overwrite=arguments.overwrite)
    if not arguments.overwrite:
        _check_same_scale(table, kept, arguments.pixels_per_millimetre)
    found = find_inputs(arguments.inputs, recursive=not arguments.not_recursive, results=folder)

    from cascade.pipeline import Cascade

    cascade = Cascade.load(
        arguments.model,
        **runtime_options(arguments),
        cutoff=arguments.cutoff,
        operating_point=arguments.operating_point,
        coverage=arguments.coverage,
        limits=ImageLimits(
            max_pixels=int(min(arguments.max_megapixels, 1e6) * 1e6),
            allow_truncated=arguments.allow_truncated,
        ),
    )
    if arguments.overwrite:  # not before the model and the tables are known to be fine
        _remove_results(folder, table, kept)
        kept = []
    finished = {row["path"] for row in kept}
    inputs = (item for item in found if _as_written(item.path) not in finished)
    pictures = Pictures(folder, arguments.save_masks, arguments.save_overlays)
    done = failed = 0
    with _appending(table) as file:
        if not file.tell():
            file.write(csv_line(COLUMNS))
        rows = predict_rows(cascade, inputs, pictures, arguments)
        for row in progress(rows, description="predicting"):
            file.write(csv_line(row[column] for column in COLUMNS))
            file.flush()
            done += 1
            failed += bool(row["error"])
    before = f", {len(kept)} kept from before" if kept else ""
    say(f"written: {table}, {done} rows, {failed} failed{before}")
    return PARTIAL if failed else OK


def _as_written(path: Path) -> str:
    """A path as the table holds it: bytes that are no text are escaped."""
    return str(path).encode("utf-8", "backslashreplace").decode("utf-8")


def _earlier_rows(table: Path, *, resume: bool, overwrite: bool) -> list[dict[str, str]]:
    """The rows of an earlier run that are whole.

    Raises:
        ConfigError: there is an earlier run, and nothing was said about it.
        DataError: the file to go on with was not written by this command.
    """
    if not table.exists():
        return []
    if not (resume or overwrite):
        raise ConfigError(
            f"{table}: exists already; keep its rows and go on (--resume), replace it "
            "(--overwrite) or choose another folder (--output)"
        )
    from cascade.data.tables import read_csv

    text = table.read_bytes()
    whole = text[: text.rfind(b"\n") + 1]  # a killed run leaves half a row at the end
    if len(whole) < len(text):
        os.truncate(table, len(whole))
    if whole in (b"", csv_line(COLUMNS).encode()):
        return []
    try:
        columns, rows = read_csv(table)
    except DataError:
        if overwrite:
            return []
        raise
    if tuple(columns) != COLUMNS and not overwrite:
        raise DataError(f"{table}: was not written by this version; its columns are {columns}")
    return rows


def _check_same_scale(
    table: Path, rows: Sequence[Mapping[str, str]], pixels_per_millimetre: float | None
) -> None:
    """Refuse to put millimetres of another scale, or none, below those that are there.

    Raises:
        ConfigError: a row was measured with another scale.
    """
    row = next((row for row in rows if row["diameter_pixels"]), None)
    if row is None:
        return
    before = _scale_of(table, row)
    if before is None or pixels_per_millimetre is None:
        same = before is pixels_per_millimetre
    else:
        same = math.isclose(before, pixels_per_millimetre, rel_tol=1e-6)  # nine digits are kept
    if not same:
        words = [f"{scale:.6g}" if scale else "no" for scale in (before, pixels_per_millimetre)]
        raise ConfigError(
            f"{table}: {row['name']} was measured with {words[0]} pixels per millimetre, now it is "
            f"{words[1]}; give the same --pixels_per_millimetre or start anew (--overwrite)"
        )


def _scale_of(table: Path, row: Mapping[str, str]) -> float | None:
    """Pixels per millimetre behind a row's two diameters."""
    if not row["diameter_millimetres"]:
        return None
    try:
        return float(row["diameter_pixels"]) / float(row["diameter_millimetres"])
    except (ValueError, ZeroDivisionError) as error:
        raise DataError(f"{table}: {row['name']} has diameters that are no numbers") from error


def _remove_results(folder: Path, table: Path, rows: Sequence[Mapping[str, str]]) -> None:
    """Remove a table and the pictures that it names, and no others."""
    for row in rows:
        for kind in ("mask", "overlay"):
            name = Path(row.get(kind) or "").name
            if name:
                (folder / f"{kind}s" / name).unlink(missing_ok=True)
    table.unlink(missing_ok=True)


@contextlib.contextmanager
def _appending(table: Path) -> Iterator[TextIO]:
    try:
        table.parent.mkdir(parents=True, exist_ok=True)
        with table.open("a", encoding="utf-8", errors="backslashreplace", newline="") as file:
            yield file
    except OSError as error:
        raise DataError(f"{table}: cannot be written ({error.strerror or error})") from error


def find_inputs(
    inputs: Sequence[str], *, recursive: bool, results: Path | None = None
) -> Iterator[FoundFile]:
    """The images behind files, folders, patterns and tables, one at a time.

    Args:
        inputs: what the user named; tables are read at once, folders when their turn comes.
        recursive: also search folders within folders.
        results: the folder for results; pictures that are found in it are no inputs.

    Raises:
        DataError: a table is not usable.
    """
    parts = [
        _table_inputs(Path(item))
        if item.lower().endswith(".csv") and not Path(item).is_dir()
        else _found_inputs(item, recursive, results)
        for item in inputs
    ]
    return itertools.chain.from_iterable(parts)


def _found_inputs(item: str, recursive: bool, results: Path | None) -> Iterator[FoundFile]:
    own = [results.resolve() / kind for kind in ("masks", "overlays")] if results else []
    for found in expand_sources([item], recursive=recursive):
        if found.path == Path(item) or found.path.resolve().parent not in own:
            yield found


def _table_inputs(path: Path) -> list[FoundFile]:
    """One input for each row, whatever its cell holds."""
    from cascade.data.tables import read_csv, read_table

    columns, rows = read_csv(path)
    if "path" in columns:
        return [FoundFile(path.parent / row["path"]) for row in rows]
    beside = path.parent / "images_all"
    table = read_table(
        path,
        images=beside if beside.is_dir() else path.parent,
        require_labels=False,
        check_files=False,
    )
    return [FoundFile(record.image_path) for record in table]


@dataclass
class Pictures:
    """Masks and overlays on disk, under names that never collide.

    Attributes:
        folder: where ``masks/`` and ``overlays/`` go.
        masks: write masks.
        overlays: write overlays.
    """

    folder: Path
    masks: bool
    overlays: bool

    def write(self, path: Path, prediction: Prediction) -> dict[str, str]:
        """Write what was asked for; returns the files' paths relative to the folder."""
        from cascade.evaluation.overlays import overlay
        from cascade.imaging import read_image, write_image, write_mask

        written = {}
        if self.masks:
            target = self._free("masks", path, ".png")
            write_mask(target, prediction.mask)
            written["mask"] = str(target.relative_to(self.folder))
        if self.overlays:
            target = self._free("overlays", path, ".jpg")
            limits = ImageLimits(max_pixels=prediction.mask.size, allow_truncated=True)
            image = read_image(path, limits=limits).pixels
            write_image(target, overlay(image, predicted=prediction.mask))
            written["overlay"] = str(target.relative_to(self.folder))
        return written

    def _free(self, kind: str, path: Path, suffix: str) -> Path:
        """The first name that is not taken; images in two folders may share theirs."""
        stem = safe_stem(path.name)
        names = itertools.chain([stem], (f"{stem}_{number}" for number in itertools.count(2)))
        targets = (self.folder / kind / f"{name}{suffix}" for name in names)
        return next(target for target in targets if not target.exists())


def predict_rows(
    cascade: Cascade, inputs: Iterator[FoundFile], pictures: Pictures, arguments: Any
) -> Iterator[dict[str, Any]]:
    """One row for each input, in order, holding a batch of images at a time."""
    while chunk := list(itertools.islice(inputs, max(1, arguments.batch_size))):
        usable = [found.path for found in chunk if found.problem is None]
        results = cascade.predict_iter(
            usable,
            tta=arguments.tta,
            batch_size=len(usable),
            pixels_per_millimetre=arguments.pixels_per_millimetre,
        )
        for found in chunk:
            if found.problem is not None:
                error = ImageError(f"{found.path.name}: {found.problem}")
                yield _row(found.path, error=str(error))
            else:
                yield _result_row(found.path, next(results), pictures)


def _result_row(path: Path, result: Prediction | Failure, pictures: Pictures) -> dict[str, Any]:
    from cascade.pipeline import Failure

    if isinstance(result, Failure):
        return _row(path, error=str(result.error))
    try:
        written = pictures.write(path, result)
    except ImageError as error:  # the file changed since it was predicted
        return _row(path, error=str(error))
    box = result.box or (None, None, None, None)
    corners = dict(zip(("box_top", "box_left", "box_bottom", "box_right"), box, strict=True))
    return _row(
        path,
        label=result.label,
        probability_benign=result.probabilities.get("benign"),
        probability_malignant=result.probabilities.get("malignant"),
        **corners,
        height=result.mask.shape[0],
        width=result.mask.shape[1],
        area_fraction=result.area_fraction,
        **{name: getattr(result.measurements, name, None) for name in MEASURED},
        prediction_set=" ".join(result.prediction_set),
        mask_score=_rounded(getattr(result.mask_quality, "score", None)),
        unfamiliarity=_rounded(result.unfamiliarity),
        warnings="; ".join(result.warnings),
        **written,
    )


def _rounded(value: float | None) -> float | str | None:
    """Three decimals; infinity as a word, because an empty cell means unknown."""
    if value is None:
        return None
    return round(value, 3) if math.isfinite(value) else str(value)


def _row(path: Path, **values: Any) -> dict[str, Any]:
    return {**dict.fromkeys(COLUMNS), "name": path.name, "path": str(path), **values}


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_main, argv)
