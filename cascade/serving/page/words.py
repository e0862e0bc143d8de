"""What the page says about one image, in words that need no knowledge of the networks.

Nothing here knows of Streamlit or of HTML: texts are plain, and escaped where they are shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from cascade.config import CLASSES
from cascade.fields import declared
from cascade.pipeline.prediction import Prediction
from cascade.serving.shared.judgement import NOT_A_LESION, reasons_not_to_judge

Kind = Literal["unjudged", "above", "below"]

CAUTION = (
    "For research and teaching on photographs of single skin lesions, and for no decision about a "
    "person. A low probability does not rule out cancer. If a lesion worries you, show it to a "
    "doctor."
)
"""What follows the library's disclaimer on the page and in the report."""

_NUMBERS = {0.8: "4 of 5", 0.9: "9 of 10", 0.95: "19 of 20", 0.99: "99 of 100"}


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
            return f"The cutoff of {percent(self.cutoff)} is the one stored with the model."
        share = whole_percent(self.sensitivity)
        return (
            f"The cutoff of {percent(self.cutoff)} was chosen so that {share} of the malignant "
            "validation images reach it."
        )


@dataclass(frozen=True)
class Answer:
    """What the cascade says about one image, whatever the cutoff.

    Attributes:
        reasons: why nothing may be said; empty where the image can be judged.
        probability: of malignant, in [0, 1]; ``None`` where there are reasons.
        possible: the set of classes that stay possible; empty where the model has none.
        coverage: share of each class whose set is to hold the true class, in (0, 1].
    """

    reasons: tuple[str, ...]
    probability: float | None = None
    possible: tuple[str, ...] = ()
    coverage: float = 0.9


@dataclass(frozen=True)
class Verdict:
    """The answer for one image.

    Attributes:
        kind: ``unjudged`` where no number may be shown, else the side of the cutoff.
        symbol: tells the kinds apart without colour.
        headline: the answer in a few words.
        sentences: what it means, and what it does not.
        certainty: what the set of possible classes says; empty without one.
        unsure: both classes stay possible.
    """

    kind: Kind
    symbol: str
    headline: str
    sentences: tuple[str, ...]
    certainty: str = ""
    unsure: bool = False


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
    """What a prediction says, whatever the cutoff.

    Args:
        prediction: of the cascade.
        uses_mask: whether the classifier was trained on masked crops, so that it needs a lesion.
        coverage: share of each class whose set of possible classes is to hold the true one.
    """
    reasons = reasons_not_to_judge(prediction, uses_mask=uses_mask)
    if reasons:
        return Answer(tuple(sentence(reason) for reason in reasons))
    chance = prediction.probabilities[CLASSES[1]]
    return Answer((), chance, prediction.prediction_set, coverage)


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
            "Cannot judge this picture",
            (*answer.reasons, "No probability is shown, because it would mean nothing here."),
        )
    possible = answer.possible
    label = CLASSES[int(answer.probability >= point.cutoff)]
    unsure = len(possible) > 1
    doubt = ", not certain" if unsure else ""
    certainty = _certainty(possible, label, answer.coverage)
    if label == CLASSES[1]:
        headline = "Reaches the cutoff: label malignant" + doubt
        meaning = "Many benign lesions reach the cutoff, too: this is no diagnosis."
        return Verdict("above", "▲", headline, (meaning,), certainty, unsure)
    headline = "Below the cutoff: label benign" + doubt
    meaning = "This does not rule out cancer: some malignant lesions stay below every cutoff."
    return Verdict("below", "▼", headline, (meaning,), certainty, unsure)


def _certainty(possible: Sequence[str], label: str, coverage: float) -> str:
    if not possible:
        return ""
    often = _NUMBERS.get(round(coverage, 4), whole_percent(coverage))
    promise = f"Such a set holds the true class for {often} pictures of either class"
    if len(possible) > 1:
        return f"Both classes stay possible: the model does not know. ({promise}.)"
    if possible[0] == label:
        return f"Only {label} stays possible. ({promise}, so it is wrong for some.)"
    return (
        f"The cutoff says {label}, while only {possible[0]} stays possible in the set of classes: "
        f"take the more cautious one, malignant. ({promise}.)"
    )


def further_warnings(prediction: Prediction) -> tuple[str, ...]:
    """Warnings that the verdict does not already state."""
    stated = (NOT_A_LESION, "no lesion found", "this does not look like a dermoscopic photograph")
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
        return ("Nothing to measure: no lesion was found.",)
    notes = ["They describe the outline that the model drew. No class follows from them."]
    if prediction.mask_issues:
        notes.append("The quality of this outline is low, so its measurements are unreliable.")
    if measurements.cut_off:
        notes.append(
            "The outline touches the image's border, so the lesion may extend beyond it: area and "
            "diameter are lower limits."
        )
    if measurements.diameter_millimetres is None:
        notes.append("For millimetres, give the scale in pixels per millimetre.")
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
