"""Score a segmenter on the test table."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from cascade.command_line.evaluation_options import (
    add_evaluation,
    check_size,
    check_unseen,
    how_to_evaluate,
    refuse_to_replace_evaluation,
    report,
)
from cascade.command_line.first_rows import first_rows
from cascade.command_line.options import add_model, load_table, with_masks
from cascade.command_line.parser import OK, CommandParser, command

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
    add_model(parser, "a segmenter or of a cascade", required=True)
    add_evaluation(parser, output="results/segmentation")
    parser.add_shared("device", "threshold", "save_masks", "save_overlays")
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    refuse_to_replace_evaluation(arguments)
    table = with_masks(arguments, first_rows(arguments, load_table(arguments, labels=False)))

    from cascade.evaluation.stages import evaluate_segmenter
    from cascade.lesion.masking import MaskPolicy, find_lesion
    from cascade.models.segmenter import Segmenter
    from cascade.pipeline.stages import segment

    segmenter = Segmenter.load(arguments.model, device=arguments.device)
    check_size(arguments, {"segmenter": segmenter.size})
    seen = check_unseen(arguments, {"segmenter": segmenter.provenance}, table, arguments.model)
    policy = MaskPolicy(threshold=arguments.threshold)
    evaluation = evaluate_segmenter(segmenter, table, policy=policy, **how_to_evaluate(arguments))

    def sketch(image: np.ndarray) -> tuple[np.ndarray, None]:
        probability = segment(segmenter, [image], tta=arguments.tta)[0]
        return find_lesion(probability, policy, shape=image.shape[:2]).mask, None

    report(
        arguments,
        evaluation,
        title="Segmentation",
        models=[arguments.model],
        table=table,
        seen=seen,
        sketch=sketch,
    )
    return OK
