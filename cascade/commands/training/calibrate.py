"""Join two trained stages into one cascade, with probabilities and limits that can be trusted."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.command_line.options import (
    add_data,
    add_output,
    add_switch,
    load_table,
    stored_splits,
)
from cascade.command_line.outputs import refuse_to_replace, say
from cascade.command_line.parser import OK, CommandParser, command
from cascade.errors import ConfigError


def build_parser() -> CommandParser:
    """The command's flags."""
    parser = CommandParser(
        "cascade calibrate",
        "Join a segmenter and a classifier into one file, after fitting on the validation images: "
        "calibrated probabilities, cutoffs for sensitivities of 0.80, 0.90 and 0.95, sets of "
        "classes, limits of mask quality, and an out-of-distribution detector.",
        example="cascade calibrate --segmenter models/segmenter/best.safetensors "
        "--classifier models/classifier/best.safetensors --data_path dataset "
        "--masks models/oof/masks --output models/cascade.safetensors",
    )
    parser.add_shared("segmenter", "classifier", required=True)
    parser.add_shared("device", "splits", "masks", "seed", batch_size=32)
    add_data(parser, table="train_data.csv")
    add_output(parser, "file of the cascade", required=True)
    parser.add_argument(
        "--sensitivity",
        type=float,
        default=0.9,
        help="operating point that becomes the default cutoff: 0.8, 0.9 or 0.95",
    )
    parser.add_argument(
        "--image_size",
        type=int | None,
        default=None,
        help="side of the classifier's input in pixels, by default as it was trained; trained on "
        "crops of varying scale, it may judge somewhat larger ones better",
    )
    parser.add_argument(
        "--corrupted_copies",
        type=int,
        default=0,
        help="so many random changes of each validation image (blur, noise, hair, ...) count like "
        "further images for the cutoffs, so that their sensitivities hold better elsewhere",
    )
    add_switch(parser, "--half", "store the weights as float16, which halves the file")
    return parser


@command(build_parser)
def main(arguments: Any) -> int:
    """Run the command; returns its exit code."""
    output = Path(arguments.output)
    refuse_to_replace(arguments, output)
    table = load_table(arguments)

    from cascade.models.classifier import Classifier
    from cascade.models.ensemble import load_classifier
    from cascade.models.segmenter import Segmenter
    from cascade.pipeline import Cascade
    from cascade.training.calibration import calibrate_cascade

    splits = stored_splits(arguments, table)
    segmenter = Segmenter.load(arguments.segmenter, device=arguments.device)
    classifier = load_classifier(arguments.classifier, device=arguments.device)
    if arguments.image_size is not None:
        if not isinstance(classifier, Classifier):
            raise ConfigError(
                f"--image_size {arguments.image_size}: {arguments.classifier} is an ensemble; "
                "its members keep the sizes that they were trained at"
            )
        classifier = classifier.at_size(arguments.image_size).to(classifier.device)
    result = calibrate_cascade(
        segmenter,
        classifier,
        table,
        splits,
        masks=None if arguments.masks == "truth" else arguments.masks,
        sensitivity=arguments.sensitivity,
        corrupted_copies=arguments.corrupted_copies,
        batch_size=arguments.batch_size,
        seed=arguments.seed,
    )
    cascade = Cascade(segmenter, classifier, safeguards=result.safeguards)
    cascade.save(output, half=arguments.half)
    facts = result.facts
    say(f"temperature {facts['temperature']:.3f}, bias {facts['bias']:.3f}, log loss "
        f"{facts['log_loss_before']:.4f} -> {facts['log_loss_after']:.4f} "
        f"on {facts['images']} validation images")  # fmt: skip
    for target, cutoff in classifier.operating_points.items():
        say(f"sensitivity {target}: cutoff {cutoff:.4f}")
    say(f"written: {output}")
    return OK
