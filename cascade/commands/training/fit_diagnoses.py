"""Let a finished cascade tell diagnoses, without changing what it says about malignant."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.command_line.options import add_data, add_model, add_output, load_table, stored_splits
from cascade.command_line.outputs import refuse_to_replace, say, say_table
from cascade.command_line.parser import OK, CommandParser, command


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade fit-diagnoses",
        "Fit a layer that tells the diagnoses of a table (column diagnosis) to a finished "
        "cascade, on the features that its classifier has anyway. Masks, probabilities of "
        "malignant, cutoffs and safeguards stay as they are. A classifier that was trained with "
        "--diagnosis_weight has such a layer already, which is replaced.",
        example="cascade fit-diagnoses --model models/cascade.safetensors --data_path dataset "
        "--output models/telling.safetensors",
    )
    add_model(parser, "a cascade", required=True)
    add_data(parser, table="train_data.csv")
    parser.add_shared("device", "splits", "tta")
    add_output(parser, "file of the cascade that tells diagnoses", required=True)
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    output = Path(arguments.output)
    refuse_to_replace(arguments, output)
    table = load_table(arguments)
    splits = stored_splits(arguments, table)

    from cascade.evaluation.diagnosis_scores import DIAGNOSIS_HEADERS, diagnosis_rows
    from cascade.models.artifact import read_artifact
    from cascade.pipeline import Cascade
    from cascade.training.diagnosis_fit import fit_diagnoses

    half = any(
        array.dtype == "float16" for array in read_artifact(arguments.model).tensors.values()
    )
    cascade = Cascade.load(arguments.model, device=arguments.device, runtime="torch")
    cropper = Cascade.load(arguments.model, device=arguments.device)
    facts = fit_diagnoses(cascade, table, splits, cropper=cropper, views=arguments.tta)
    cascade.save(output, half=half)
    scores = facts["validation"]
    say(f"fitted on {facts['images']} images; of {scores['n']} validation images:")
    say_table(DIAGNOSIS_HEADERS, diagnosis_rows(scores))
    say(f"balanced accuracy {scores['balanced_accuracy']:.4f}")
    say(f"written: {output}")
    return OK
