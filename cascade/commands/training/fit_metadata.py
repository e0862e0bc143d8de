"""Let a finished cascade use age, sex and site where they are known."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.command_line.options import add_data, add_model, add_output, load_table, stored_splits
from cascade.command_line.outputs import refuse_to_replace, say
from cascade.command_line.parser import OK, CommandParser, command
from cascade.errors import ConfigError

if TYPE_CHECKING:
    from cascade.data.tables import Table
    from cascade.training.metadata import MetadataResult


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade fit-metadata",
        "Fit how age, sex and site (columns age, sex and site) move the probability of malignant "
        "of a finished cascade, on images that did not train it, and write the cascade with it. "
        "Networks, masks and cutoffs stay as they are, and so does every answer where nothing is "
        "known beside the image.",
        example="cascade fit-metadata --model models/cascade.safetensors --data_path dataset "
        "--output models/with_metadata.safetensors",
    )
    add_model(parser, "a cascade, as a .safetensors file", required=True)
    add_data(parser, table="train_data.csv")
    parser.add_shared("device", "splits", "seed")
    parser.add_argument(
        "--scores",
        type=str,
        default=None,
        help="out_of_fold.csv of a cross-validation to fit on, instead of the cascade's answers "
        "for the validation images of --splits",
    )
    add_output(parser, "file of the cascade with metadata fusion", required=True)
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    output = Path(arguments.output)
    refuse_to_replace(arguments, output)

    from cascade.models.artifact import read_artifact, write_artifact
    from cascade.models.exported import is_exported, read_safeguards, with_safeguards

    if is_exported(arguments.model):
        raise ConfigError(
            f"{arguments.model}: is an exported cascade; name the .safetensors file that it was "
            "exported from, and export the result again"
        )
    table = load_table(arguments)

    artifact = read_artifact(arguments.model, needs=("segmenter", "classifier"))
    result = _fit(arguments, table)
    safeguards = read_safeguards(artifact, source=arguments.model)
    metrics = dict(artifact.metrics)
    metrics["classifier"] = {**metrics.get("classifier", {}), "metadata": result.facts}
    fitted = replace(safeguards, metadata=result.fusion)
    write_artifact(output, replace(with_safeguards(artifact, fitted), metrics=metrics))
    _say(result)
    say(f"written: {output}")
    return OK


def _fit(arguments: Any, table: Table) -> MetadataResult:
    from cascade.training.metadata import fit_on_out_of_fold, fit_on_validation

    if arguments.scores is not None:
        from cascade.training.out_of_fold import read_out_of_fold

        scores = read_out_of_fold(arguments.scores)
        return fit_on_out_of_fold(table, scores, seed=arguments.seed)
    from cascade.pipeline import Cascade

    splits = stored_splits(arguments, table)
    cascade = Cascade.load(arguments.model, device=arguments.device)
    return fit_on_validation(cascade, table, splits, seed=arguments.seed)


def _say(result: MetadataResult) -> None:
    facts = result.facts
    known = ", ".join(f"{name} of {count}" for name, count in facts["known"].items())
    say(f"fitted on {facts['images']} images, {facts['malignant']} malignant; known: {known}")
    say(f"penalty {facts['penalty']:g}, chosen by log loss on held-out images")
    for name, title in (("roc_auc", "ROC AUC"), ("brier", "Brier score"),
                        ("ece", "calibration error"), ("log_loss", "log loss")):  # fmt: skip
        before, after = facts["image_alone"][name], facts["held_out"][name]
        say(f"{title}: image alone {before:.4f}, with metadata {after:.4f} (held out)")
    if facts["held_out"]["log_loss"] >= facts["image_alone"]["log_loss"]:
        say(
            "warning: on these images metadata does not help; think of keeping the cascade as it is"
        )
