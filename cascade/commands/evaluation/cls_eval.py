"""Score a classifier on the test table."""

from __future__ import annotations

from typing import Any

from cascade.command_line.evaluation_options import (
    add_evaluation,
    check_size,
    check_unseen,
    how_to_evaluate,
    refuse_to_replace_evaluation,
    report,
)
from cascade.command_line.first_rows import first_rows
from cascade.command_line.options import add_model, load_table, with_crop_masks
from cascade.command_line.parser import OK, CommandParser, command


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade cls-eval",
        "Score a classifier on crops cut by true or given masks: accuracy, precision, recall, F1, "
        "confusion matrix and ROC AUC.",
        example="python classification_inference_pipeline.py "
        "--path models/classifier/best.safetensors --data_path dataset",
    )
    add_model(parser, "a classifier or of a cascade", required=True)
    add_evaluation(parser, output="results/classification")
    parser.add_shared("device", "masks", "cutoff", "operating_point")
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    refuse_to_replace_evaluation(arguments)

    from cascade.evaluation.stages import evaluate_classifier
    from cascade.models.ensemble import load_classifier
    from cascade.reliability import chosen_cutoff

    classifier = load_classifier(arguments.model, device=arguments.device)
    cutoff = chosen_cutoff(classifier, arguments.cutoff, arguments.operating_point)
    check_size(arguments, {"classifier": classifier.size})
    table = first_rows(arguments, load_table(arguments))
    table = with_crop_masks(arguments, table, classifier.policy)
    seen = check_unseen(arguments, {"classifier": classifier.provenance}, table, arguments.model)
    evaluation = evaluate_classifier(classifier, table, cutoff=cutoff, **how_to_evaluate(arguments))
    report(
        arguments,
        evaluation,
        title="Classification of masked crops",
        models=[arguments.model],
        table=table,
        seen=seen,
    )
    return OK
