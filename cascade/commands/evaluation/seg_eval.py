"""Score a segmenter on the test table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from cascade.command_line.evaluation_options import add_evaluation, check_size, check_unseen, report
from cascade.command_line.options import add_switch, load_table, with_masks
from cascade.command_line.parser import OK, CommandParser, run

if TYPE_CHECKING:
    import numpy as np


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade seg-eval",
        "Score a segmenter: mean IoU and the other segmentation numbers on the test table.",
        example="python seg_inference_pipeline.py --path models/segmenter/best.safetensors "
        "--data_path dataset --save_masks --save_overlays",
    )
    parser.add_argument(
        "--path", type=str, required=True, help="file of a segmenter or of a cascade"
    )
    add_evaluation(parser, output="results/segmentation")
    parser.add_argument(
        "--threshold", type=float, default=0.5, help="probability from which a pixel is lesion"
    )
    add_switch(parser, "--save_masks", "write each predicted mask to masks/STEM.png")
    add_switch(parser, "--save_overlays", "write each image with both outlines to overlays/")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    table = with_masks(arguments, load_table(arguments, labels=False))

    from cascade.evaluation.overlays import write_masks_and_overlays
    from cascade.evaluation.stages import evaluate_segmenter
    from cascade.lesion.masking import MaskPolicy, find_lesion
    from cascade.models.segmenter import Segmenter
    from cascade.pipeline.stages import segment

    segmenter = Segmenter.load(arguments.path, device=arguments.device)
    check_size(arguments, {"segmenter": segmenter.size})
    check_unseen(
        {"segmenter": segmenter.provenance},
        table,
        model=arguments.path,
        allowed=arguments.allow_seen,
    )
    policy = MaskPolicy(threshold=arguments.threshold)
    evaluation = evaluate_segmenter(
        segmenter,
        table,
        policy=policy,
        tta=arguments.tta,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        seed=arguments.seed,
    )

    def sketch(image: np.ndarray) -> tuple[np.ndarray, None]:
        probability = segment(segmenter, [image], tta=arguments.tta)[0]
        return find_lesion(probability, policy, shape=image.shape[:2]).mask, None

    report(
        arguments,
        evaluation,
        title="Segmentation",
        models=[arguments.path],
        sketch=sketch,
    )
    write_masks_and_overlays(
        Path(arguments.output),
        table,
        sketch,
        masks=arguments.save_masks,
        overlays=arguments.save_overlays,
    )
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_main, argv)
