"""The steps that make the default cascade and the fast one, as commands and their flags."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

ISIC, HAM10000 = "isic", "ham10000"
PSEUDO_MASKS = 2000
"""Images of HAM10000 whose masks are predicted for the segmenters to learn from."""
AGREEMENT = 0.9
"""Least mean IoU of the views of such an image."""
CORRUPTED_COPIES = 1
"""Of each validation image, which count in the calibration like the image itself."""
INT8_DIFFERENCE = 0.1
"""What storing the fast classifier's weights in 8 bits may change a probability by."""


@dataclass(frozen=True)
class Step:
    """One command of the chain.

    Attributes:
        name: what the user is told, and the name of the mark that it is finished.
        command: word of the console command.
        flags: its flags.
        run: folder of a training, which goes on where it was stopped.
    """

    name: str
    command: str
    flags: tuple[str, ...]
    run: Path | None = None


def steps(arguments: Any) -> list[Step]:
    """The chain, in order."""
    chain = _Chain(arguments)
    return [*chain.segmenters(), *chain.classifiers(), *chain.default(), *chain.fast()]


class _Chain:
    """Folders and flags that the steps share."""

    def __init__(self, arguments: Any) -> None:
        self.arguments = arguments
        self.output = Path(arguments.output)
        self.isic, self.ham = (str(Path(arguments.data) / name) for name in (ISIC, HAM10000))
        self.masks = str(self.output / "out_of_fold" / "masks")
        self.device = ("--device", arguments.device)
        self.weights = ("--encoder_weights", arguments.encoder_weights)
        self.lite_weights = ("--encoder_weights", arguments.classifier_weights)
        self.both = ("--data_path", self.isic, "--more_data", self.ham)
        self.divided = (*self.both, "--splits", str(self.output / "splits.json"))
        self.cut = (*self.divided, "--masks", self.masks)

    def segmenters(self) -> list[Step]:
        """The first stage: two teachers, a student of both data sets, and a small one."""
        isic = ("--data_path", self.isic, "--splits", str(self.output / f"splits_{ISIC}.json"))
        pseudo = str(self.output / "pseudo_masks")
        teacher, other = self.best("segmenter_lite"), self.best("segmenter_large")
        predicted = [
            Step(
                "pseudo_masks", "segment",
                ("--model", teacher, "--more_models", other, "--tta", "flips", "--agreement",
                 str(AGREEMENT), "--limit", str(PSEUDO_MASKS), "--data_path", self.ham,
                 *self.device, "--output", pseudo, "--resume"),
            )
        ]  # fmt: skip
        taught: tuple[str, ...] = (*self.divided, "--pseudo_masks", pseudo)
        if self.arguments.without_pseudo_masks:
            taught, predicted = isic, []
        return [
            self.training("segmenter", "seg-train", *isic, *self.weights),
            self.training(
                "segmenter_large", "seg-train", *isic, "--initial_model", self.best("segmenter")
            ),
            self.training("segmenter_lite", "seg-train", *isic, *self.lite_weights),
            *predicted,
            self.training("segmenter_student", "seg-train", *taught, "--initial_model", teacher),
            self.training(
                "segmenter_student_long", "seg-train", *taught,
                "--initial_model", self.best("segmenter_student"),
            ),
            self.training(
                "segmenter_student_scale", "seg-train", *taught,
                "--initial_model", self.best("segmenter_student_long"),
            ),
            self.training("segmenter_fast", "seg-train", *taught, *self.weights),
        ]  # fmt: skip

    def classifiers(self) -> list[Step]:
        """The second stage, on crops that are cut by predicted masks."""
        return [
            self.training("out_of_fold", "oof-masks", "--data_path", self.isic, *self.weights),
            Step(
                "masks", "segment",
                ("--model", self.best("segmenter_large"), "--data_path", self.ham, *self.device,
                 "--output", self.masks, "--resume"),
            ),
            self.training("classifier", "cls-train", *self.cut, *self.lite_weights),
            self.onward("classifier_160", self.best("classifier")),
            self.onward("classifier_192", self.best("classifier")),
            self.average("average", self.best("classifier_160"), self.best("classifier_192")),
            self.onward("classifier_192_strong", self.mean("average")),
            self.onward("classifier_224", self.best("classifier_192_strong")),
            self.average(
                "average_224", self.best("classifier_224"), self.best("classifier_192_strong")
            ),
            self.onward("classifier_224_second", self.mean("average_224")),
            self.average(
                "average_second", self.mean("average_224"), self.best("classifier_224_second")
            ),
            self.onward("classifier_224_long", self.mean("average_second")),
            self.onward("classifier_224_mixed", self.best("classifier_224_long")),
            self.onward("classifier_224_balanced", self.best("classifier_224_mixed")),
            self.onward("classifier_224_consistent", self.best("classifier_224_mixed")),
            self.average(
                "average_balanced", self.best("classifier_224_balanced"),
                self.best("classifier_224_consistent"), self.best("classifier_224_mixed"),
            ),
        ]  # fmt: skip

    def default(self) -> list[Step]:
        """The default cascade and its card."""
        model, card = self.arguments.model, self.arguments.card
        of_ham = () if self.arguments.without_pseudo_masks else (HAM10000,)
        evaluations = self.evaluations("", model)
        return [
            *self.joined("", "segmenter_student_scale", model),
            *evaluations,
            Step(
                "card", "card",
                ("--model", model, "--output", card, "--evaluations",
                 *(str(self.output / step.name) for step in evaluations),
                 "--images", str(Path(card).parent / "card"),
                 "--segmenter_data", "isic_task1", *of_ham,
                 "--classifier_data", "isic_task1", HAM10000, "--overwrite"),
            ),
        ]  # fmt: skip

    def fast(self) -> list[Step]:
        """The fast cascade: a smaller segmenter, and the same classifier with weights in 8 bits."""
        model, folder = self.mean("fast"), self.arguments.fast
        return [
            *self.joined("fast_", "segmenter_fast", model),
            Step(
                "fast_export", "export",
                ("--model", model, "--output", folder, "--overwrite",
                 "--images", str(Path(self.isic) / "images_all"), "--int8", "classifier_weights",
                 "--int8_difference", str(INT8_DIFFERENCE)),
            ),
            *self.evaluations("fast_", folder),
        ]  # fmt: skip

    def joined(self, prefix: str, segmenter: str, model: str) -> list[Step]:
        """Both stages in one file, with all that is fitted on validation images."""
        return [
            Step(
                f"{prefix}calibration", "calibrate",
                ("--segmenter", self.best(segmenter),
                 "--classifier", self.mean("average_balanced"),
                 "--corrupted_copies", str(CORRUPTED_COPIES), *self.cut, *self.device,
                 "--output", model, "--half", "--overwrite"),
            ),
        ]  # fmt: skip

    def evaluations(self, prefix: str, model: str) -> list[Step]:
        """One for each test table and one for both together; of ISIC also corrupted images."""
        tables = {
            ISIC: ("--data_path", self.isic, "--corruptions"),
            HAM10000: ("--data_path", self.ham),
            "both": self.both,
        }
        names = {f"{prefix}evaluation_{which}": where for which, where in tables.items()}
        return [
            Step(
                name, "evaluate",
                ("--model", model, *where, *self.device, "--subgroups",
                 "--output", str(self.output / name), "--overwrite"),
            )
            for name, where in names.items()
        ]  # fmt: skip

    def best(self, name: str) -> str:
        return str(self.output / name / "best.safetensors")

    def mean(self, name: str) -> str:
        return str(self.output / f"{name}.safetensors")

    def training(self, name: str, command: str, *flags: str) -> Step:
        folder = self.output / name
        recipe = ("--config", str(Path(self.arguments.recipes) / f"{name}.yaml"), *self.device)
        return Step(name, command, (*recipe, *flags, "--output", str(folder)), folder)

    def onward(self, name: str, start: str) -> Step:
        return self.training(name, "cls-train", *self.cut, "--initial_model", start)

    def average(self, name: str, *paths: str) -> Step:
        return Step(name, "average", (*paths, "--output", self.mean(name), "--overwrite"))
