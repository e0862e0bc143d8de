"""Measure how fast this machine runs a cascade: each runtime, precision and batch size."""

from __future__ import annotations

import logging
import tempfile
from pathlib import Path
from typing import Any

from cascade.command_line.options import add_any_cascade, add_output, add_switch
from cascade.command_line.outputs import refuse_to_replace, say, say_table
from cascade.command_line.parser import OK, PARTIAL, CommandParser, command
from cascade.errors import ConfigError
from cascade.models.openvino_session import Precision
from cascade.speed.configurations import (
    NotMeasured,
    RuntimeName,
    choose,
    find_forms,
    require_naive,
)

log = logging.getLogger(__name__)

FILES = ("bench.json", "bench.png", "bench_steps.png")
BUSY = 0.25
"""Share of the cores that others may use before a warning is due."""


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade bench",
        "Measure images per second, latency, peak memory and cold start of a cascade on this "
        "machine's CPU, in each installed runtime, precision and batch size. Configurations take "
        "turns, each time in a new process, all with the same files and threads. Without files, "
        "lesions are drawn. Let nothing else run meanwhile.",
        example="cascade bench photos/ --runtimes onnx openvino --batch_sizes 1 --output bench",
    )
    parser.add_argument(
        "inputs", nargs="*", default=[], type=str, help="image files, folders or patterns"
    )
    add_any_cascade(parser)
    parser.add_argument(
        "--exported",
        type=str,
        default=None,
        help="the same cascade as a folder of cascade export, where --model names a file; by "
        "default NAME_onnx beside NAME.safetensors",
    )
    add_output(parser, f"folder for {', '.join(FILES)}", default="bench")
    parser.add_argument(
        "--drawn",
        type=str,
        nargs="+",
        default=[],
        help="sizes of drawn images as WIDTHxHEIGHT, each measured by itself; 1024x768 where no "
        "files are named either",
    )
    parser.add_argument(
        "--runtimes",
        type=RuntimeName,
        nargs="+",
        default=[],
        help="runtimes to measure, an error where one cannot run; by default all that can",
    )
    parser.add_argument(
        "--precisions",
        type=Precision,
        nargs="+",
        default=[],
        help="precisions to measure, by default all; those that a runtime lacks are listed",
    )
    parser.add_argument(
        "--batch_sizes", type=int, nargs="+", default=[1, 8], help="images at a time"
    )
    parser.add_argument("--rounds", type=int, default=5, help="turns of each configuration")
    parser.add_argument("--images", type=int, default=16, help="images of each kind at most")
    parser.add_shared("threads")
    add_switch(
        parser,
        "--naive",
        "measure two networks in a row as public projects write them, too, and the ratio to them",
    )
    add_switch(parser, "--no_floor", "leave out the least time that the processor would need")
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    folder = Path(arguments.output)
    refuse_to_replace(arguments, *(folder / name for name in FILES))
    for name in ("rounds", "images", "threads"):
        if arguments[name] is not None and arguments[name] < 1:
            raise ConfigError(f"{name} is {arguments[name]}; it must be at least 1")
    forms = find_forms(arguments.model, arguments.exported)
    configurations, left_out = choose(
        forms,
        runtimes=arguments.runtimes or None,
        precisions=arguments.precisions or None,
        batch_sizes=arguments.batch_sizes,
    )
    if arguments.naive:
        configurations.append(require_naive())

    from cascade.models.cores import usable_cores
    from cascade.speed.machine import describe_machine
    from cascade.speed.measure import measure

    machine, threads = describe_machine(), arguments.threads or usable_cores()
    if (machine["load_average"] or 0) > BUSY * machine["cores"]:
        log.warning(
            "warning: the load average is %.1f on %d cores; what else runs here slows this down",
            machine["load_average"], machine["cores"],
        )  # fmt: skip
    floor_of = {
        name: path and str(path) for name, path in (("file", forms.file), ("folder", forms.folder))
    }
    with tempfile.TemporaryDirectory() as drawn:
        measured = measure(
            configurations,
            _sets(arguments, Path(drawn)),
            threads=threads,
            rounds=arguments.rounds,
            floor_of=None if arguments.no_floor else floor_of,
        )
    return _report(arguments, measured, left_out, machine, threads)


def _sets(arguments: Any, folder: Path) -> dict[str, list[str]]:
    """By name the files of each set: those that were named, and each size of drawn images."""
    from cascade.speed.images import drawn_files, find_files, parse_shape

    shapes = [parse_shape(text) for text in arguments.drawn]
    sets = {}
    if arguments.inputs:
        sets["files"] = find_files(arguments.inputs, arguments.images)
    elif not shapes:
        shapes = [(768, 1024)]
    for height, width in dict.fromkeys(shapes):
        sets[f"{width}x{height}"] = drawn_files((height, width), arguments.images, folder)
    return sets


def _report(
    arguments: Any,
    measured: Any,
    left_out: list[NotMeasured],
    machine: dict[str, Any],
    threads: int,
) -> int:
    from dataclasses import replace

    from cascade.files import write_json
    from cascade.speed import report

    folder = Path(arguments.output)
    measured = replace(measured, not_measured=(*left_out, *measured.not_measured))
    names = ("model", "exported", "inputs", "drawn", "batch_sizes", "rounds", "images")
    settings = {**{name: arguments[name] for name in names}, "threads": threads}
    write_json(folder / FILES[0], report.document(measured, machine, settings))
    report.plot_speeds(measured.speeds, folder / FILES[1])
    report.plot_steps(measured.speeds, folder / FILES[2])
    say(f"{machine['processor']}, {machine['cores']} cores, {threads} threads")
    say_table(report.HEADERS, report.table_rows(measured.speeds))
    for line in report.choice_lines(measured.speeds):
        say(line)
    if measured.floor is not None:
        say(report.floor_line(measured.floor))
    for item in measured.not_measured:
        say(f"not measured: {item.name}: {item.reason}")
    say(f"written: {folder / FILES[0]}, {', '.join(FILES[1:])}")
    return PARTIAL if any("process ended" in item.reason for item in measured.not_measured) else OK
