"""``cascade croissant``: describe a data set for search engines and loaders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.command_line.options import add_output
from cascade.command_line.outputs import refuse_to_replace, say
from cascade.command_line.parser import OK, CommandParser, command


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade croissant",
        "Describe a prepared data set in Croissant 1.0 (JSON-LD): tables with SHA-256, columns as "
        "fields, train and test as record sets. Needs no network.",
        example="cascade croissant dataset --output dataset/croissant.json",
    )
    parser.add_argument("dataset", type=str, help="folder that cascade prepare has written")
    add_output(parser, "JSON file, best within the data set", required=True)
    parser.add_argument(
        "--license", type=str, default=None, help="licence of the images: a name or an address"
    )
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    from cascade.data.croissant import describe_dataset
    from cascade.files import write_json

    refuse_to_replace(arguments, arguments.output)
    description = describe_dataset(Path(arguments.dataset), license=arguments.license)
    write_json(arguments.output, description)
    say(f"written: {arguments.output}")
    if Path(arguments.output).resolve().parent != Path(arguments.dataset).resolve():
        say(f"move it to {arguments.dataset}, where its paths begin")
    return OK
