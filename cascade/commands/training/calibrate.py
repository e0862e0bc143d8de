"""Join two trained stages into one cascade, with probabilities and limits that can be trusted."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from cascade.command_line.options import (
    add_data,
    add_device,
    add_splits,
    add_switch,
    load_table,
    stored_splits,
)
from cascade.command_line.outputs import refuse_to_replace, say
from cascade.command_line.parser import OK, CommandParser, run
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
    parser.add_argument("--segmenter", type=str, required=True, help="file of a segmenter")
    parser.add_argument("--classifier", type=str, required=True, help="file of a classifier")
    add_device(parser)
    add_data(parser, table="train_data.csv")
    add_splits(parser)
    parser.add_argument(
        "--masks",
        type=str,
        default="truth",
        help="masks that cut the validation crops: truth (masks_all), or a folder of masks "
        "predicted by networks that did not train on these images",
    )
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
    parser.add_argument("--output", type=str, required=True, help="file of the cascade to write")
    parser.add_argument("--batch_size", type=int, default=32, help="crops at a time")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is drawn")
    add_switch(parser, "--half", "store the weights as float16, which halves the file")
    add_switch(parser, "--overwrite", "replace the output file")
    return parser


def _main(argv: Sequence[str] | None) -> int:
    arguments = build_parser().parse_args(argv)
    output = Path(arguments.output)
    refuse_to_replace(output, overwrite=arguments.overwrite)
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


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit code."""
    return run(_main, argv)
