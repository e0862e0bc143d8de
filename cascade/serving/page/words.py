"""What the page says about one image, for readers who do not know the networks.

Nothing here knows of Streamlit or of HTML: texts are plain, and escaped where they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cascade.config import CLASSES
from cascade.fields import declared
from cascade.imaging.quality import NOT_A_LESION
from cascade.pipeline.metadata import metadata_sentence
from cascade.pipeline.prediction import Prediction
from cascade.serving.shared.judgement import reasons_not_to_judge

Kind = Literal["unjudged", "above", "below"]

CAUTION = (
    "Use it only for research and teaching on images of single skin lesions, and never to decide "
    "about a person. A low probability does not rule out cancer. If a lesion worries you, show it "
    "to a doctor."
)
"""Follows the library's disclaimer on the page and in the report."""

SHOWN_DIAGNOSES = 3


@dataclass(frozen=True)
class OperatingPoint:
    """Where malignant begins.

    Attributes:
        cutoff: probability of malignant from which the label is malignant, in [0, 1].
        sensitivity: share of the malignant validation images that reached it; ``None`` where the
            model does not say.
    """

    cutoff: float
    sensitivity: float | None = None

    @property
    def words(self) -> str:
        """One sentence about where the cutoff comes from."""
        if self.sensitivity is None:
            return f"The cutoff of {percent(self.cutoff)} is stored with the model."
        share = whole_percent(self.sensitivity)
        return (
            f"The cutoff of {percent(self.cutoff)} was chosen so that {share} of the malignant "
            "validation images reach it."
        )


@dataclass(frozen=True)
class Answer:
    """What the cascade says about one image, before any cutoff.

    Attributes:
        reasons: why the image cannot be judged; empty where it can.
        probability: of malignant, in [0, 1]; ``None`` where there are reasons.
        possible: the prediction set; empty where the model has none.
        coverage: of prediction sets, in (0, 1].
        diagnoses: the most probable ones with their probabilities; empty where none are told.
        metadata: what was used beside the image, as a sentence; empty where nothing was.
    """

    reasons: tuple[str, ...]
    probability: float | None = None
    possible: tuple[str, ...] = ()
    coverage: float = 0.9
    diagnoses: tuple[tuple[str, float], ...] = ()
    metadata: str = ""


@dataclass(frozen=True)
class Verdict:
    """The answer for one image.

    Attributes:
        kind: ``unjudged`` where no probability may be shown, else the side of the cutoff.
        symbol: tells the kinds apart without colour.
        headline: the answer in a few words.
        sentences: what it means, and what it does not.
        certainty: what the prediction set says; empty without one.
        unsure: both classes remain possible.
        diagnoses: see :class:`Answer`.
    """

    kind: Kind
    symbol: str
    headline: str
    sentences: tuple[str, ...]
    certainty: str = ""
    unsure: bool = False
    diagnoses: tuple[tuple[str, float], ...] = ()


@dataclass(frozen=True)
class Row:
    """One measurement: what it is, its value with unit, and what the number means."""

    name: str
    value: str
    meaning: str


def percent(fraction: float) -> str:
    """A fraction in [0, 1] as a percentage with one decimal; never a bare 0 or 100."""
    if 0 < fraction < 0.001:
        return "below 0.1 %"
    if 0.999 < fraction < 1:
        return "above 99.9 %"
    return f"{100 * fraction:.1f} %"


def whole_percent(fraction: float) -> str:
    """A fraction in [0, 1] as a percentage without decimals."""
    return f"{100 * fraction:.0f} %"


def answer_of(prediction: Prediction, *, uses_mask: bool, coverage: float) -> Answer:
    """What a prediction says, before any cutoff.

    Args:
        prediction: of the cascade.
        uses_mask: whether the classifier was trained on masked crops, so that it needs a lesion.
        coverage: of prediction sets, in (0, 1].
    """
    reasons = reasons_not_to_judge(prediction, uses_mask=uses_mask)
    if reasons:
        return Answer(tuple(sentence(reason) for reason in reasons))
    chance = prediction.probabilities[CLASSES[1]]
    likely = sorted(prediction.diagnoses.items(), key=lambda item: -item[1])[:SHOWN_DIAGNOSES]
    return Answer(
        (),
        chance,
        prediction.prediction_set,
        coverage,
        tuple(likely),
        metadata_sentence(prediction),
    )


def sentence(text: str) -> str:
    """A text with a capital first letter and a full stop."""
    text = text.strip()
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "!", "?")) else text + "."


def verdict(answer: Answer, point: OperatingPoint) -> Verdict:
    """The answer in words, at an operating point."""
    if answer.probability is None:
        return Verdict(
            "unjudged",
            "?",
            "Cannot judge this image",
            (*answer.reasons, "No probability is shown, because it would not be reliable."),
        )
    possible = answer.possible
    label = CLASSES[int(answer.probability >= point.cutoff)]
    unsure = len(possible) > 1
    limit = ", not certain" if unsure else ""
    known = (answer.metadata,) if answer.metadata else ()
    certainty = _certainty(possible, label, answer.coverage)
    if label == CLASSES[1]:
        headline = "Reaches the cutoff: label malignant" + limit
        meaning = "This is not a diagnosis: many benign lesions reach the cutoff, too."
        return Verdict(
            "above", "▲", headline, (meaning, *known), certainty, unsure, answer.diagnoses
        )
    headline = "Below the cutoff: label benign" + limit
    meaning = "This does not rule out cancer: some malignant lesions are below the cutoff, too."
    said = (meaning, *known)
    return Verdict("below", "▼", headline, said, certainty, unsure, answer.diagnoses)


def _certainty(possible: Sequence[str], label: str, coverage: float) -> str:
    if not possible:
        return ""
    if len(possible) > 1:
        answer = "The prediction set contains both classes: the cascade abstains."
    elif possible[0] == label:
        answer = f"The prediction set contains only {label}."
    else:
        answer = (
            f"The cutoff gives {label}, but the prediction set contains only {possible[0]}: the "
            "more cautious answer is malignant."
        )
    share = whole_percent(coverage)
    return f"{answer} Such sets contain the true class for {share} of the images of each class."


def further_warnings(prediction: Prediction) -> tuple[str, ...]:
    """Warnings that the verdict does not already state."""
    stated = (NOT_A_LESION, "no lesion found", "this does not look like a dermoscopic")
    others = [item for item in prediction.warnings if not item.startswith(stated)]
    return tuple(sentence(item) for item in others)


def rows_of(record: Any) -> tuple[Row, ...]:
    """The fields of a record that have a label and a value, with their units."""
    rows = []
    kind: type = type(record)
    for field in declared(kind):
        value, about = getattr(record, field.name), field.description
        if about.label and value is not None:
            shown = f"{value:.{about.digits}f} {about.unit}".strip()
            rows.append(Row(about.label, shown, about.meaning))
    return tuple(rows)


def measurement_notes(prediction: Prediction) -> tuple[str, ...]:
    """What a reader of the measurements must know."""
    measurements = prediction.measurements
    if measurements is None:
        return ("No lesion was found, so only the image itself was measured.",)
    notes = ["The lesion is measured within its mask. Measurements do not change the probability."]
    if prediction.mask_issues:
        notes.append("The mask quality is low, so the measurements of the lesion are unreliable.")
    if measurements.cut_off:
        notes.append(
            "The lesion mask touches the image's border, so the lesion may extend beyond it: area "
            "and diameter are lower limits."
        )
    if measurements.diameter_millimetres is None:
        notes.append("For measurements in millimetres, give the scale in pixels per millimetre.")
    return tuple(notes)


def operating_points(description: Mapping[str, Any]) -> tuple[OperatingPoint, ...]:
    """The operating points of a cascade, the one that it uses itself first.

    Args:
        description: what ``Cascade.describe()`` gives.
    """
    own = float(description["cutoff"])
    stored = description["classifier"].get("operating_points") or {}
    points = [OperatingPoint(float(cutoff), float(name)) for name, cutoff in stored.items()]
    points.sort(key=lambda point: point.sensitivity or 0.0)
    first = next((point for point in points if point.cutoff == own), OperatingPoint(own))
    return (first, *(point for point in points if point != first))
