"""Score a classifier on the test table."""

from __future__ import annotations

from collections.abc import Sequence

from cascade.command_line.evaluation_options import add_evaluation, check_size, check_unseen, report
from cascade.command_line.options import add_cutoff, add_operating_point, load_table, with_masks
from cascade.command_line.parser import OK, CommandParser, run


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade cls-eval",
        "Score a classifier on crops cut by true or given masks: accuracy, precision, recall, F1, "
        "confusion matrix and ROC AUC.",
        example="python classification_inference_pipeline.py "
        "--path models/classifier/best.safetensors --data_path dataset",
    )
    parser.add_argument(
        "--path", type=str, required=True, help="file of a classifier or of a cascade"
    )
    add_evaluation(parser, output="results/classification")
    parser.add_argument(
        "--masks",
        type=str,
        default="truth",
        help="masks that cut the crops: truth (masks_all), or a folder of predicted masks",
    )
    add_cutoff(parser)
    add_operating_point(parser)
    return parser


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)

    from cascade.evaluation.stages import evaluate_classifier
    from cascade.models.ensemble import load_classifier
    from cascade.reliability import chosen_cutoff

    classifier = load_classifier(arguments.path, device=arguments.device)
    cutoff = chosen_cutoff(classifier, arguments.cutoff, arguments.operating_point)
    check_size(arguments, {"classifier": classifier.size})
    truth = classifier.policy.uses_mask and arguments.masks == "truth"
    table = load_table(arguments)
    if truth:
        table = with_masks(arguments, table)
    elif classifier.policy.uses_mask:
        table = table.with_masks_from(arguments.masks)
    check_unseen(
        {"classifier": classifier.provenance},
        table,
        model=arguments.path,
        allowed=arguments.allow_seen,
    )
    evaluation = evaluate_classifier(
        classifier,
        table,
        cutoff=cutoff,
        tta=arguments.tta,
        batch_size=arguments.batch_size,
        num_workers=arguments.num_workers,
        seed=arguments.seed,
    )
    report(arguments, evaluation, title="Classification of masked crops", models=[arguments.path])
    return OK


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_main, argv)
