"""Write predicted masks for a whole table, to train the classifier on or to look at."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cascade.command_line.evaluation_options import check_unseen
from cascade.command_line.options import add_data, add_device, add_switch, load_table
from cascade.command_line.outputs import say
from cascade.command_line.parser import OK, CommandParser, run
from cascade.errors import ConfigError


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade segment",
        "Write the predicted mask of every image of a table. Images that the segmenter was trained "
        "on are refused, because their masks are better than those in use: cascade oof-masks makes "
        "honest ones for them.",
        example="cascade segment --path models/segmenter/best.safetensors --data_path ham10000 "
        "--table train_data.csv --output models/masks",
    )
    parser.add_argument(
        "--path", type=str, required=True, help="file of a segmenter or of a cascade"
    )
    add_device(parser)
    add_data(parser, table="train_data.csv")
    parser.add_argument(
        "--output", type=str, required=True, help="folder for the masks, as STEM.png"
    )
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="probability from which a pixel is lesion"
    )
    add_switch(parser, "--resume", "keep the masks that are in the output folder already")
    add_switch(parser, "--overwrite", "replace the masks that are in the output folder already")
    add_switch(parser, "--allow_seen", "segment images that the segmenter was trained on, too")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    table = load_table(arguments, labels=False)
    folder = Path(arguments.output)
    done = sum((folder / f"{record.stem}.png").is_file() for record in table)
    if done and not (arguments.resume or arguments.overwrite):
        raise ConfigError(
            f"{folder}: holds {done} of these masks already; keep them (--resume), replace "
            "them (--overwrite) or choose another folder (--output)"
        )

    from cascade.lesion.masking import MaskPolicy
    from cascade.models.segmenter import Segmenter
    from cascade.training.folds import write_masks

    segmenter = Segmenter.load(arguments.path, device=arguments.device)
    check_unseen(
        {"segmenter": segmenter.provenance},
        table,
        model=arguments.path,
        allowed=arguments.allow_seen,
    )
    policy = MaskPolicy(threshold=arguments.threshold)
    written = write_masks(segmenter, table, folder, policy, keep=not arguments.overwrite)
    say(f"written: {written} masks in {folder}, {len(table) - written} kept")
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_main, argv)
