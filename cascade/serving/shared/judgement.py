"""Why an image must not be judged, for the service and the page alike."""

from __future__ import annotations

from cascade.imaging.quality import NOT_A_LESION
from cascade.pipeline.prediction import Prediction


def reasons_not_to_judge(prediction: Prediction, *, uses_mask: bool) -> tuple[str, ...]:
    """The reasons as clauses without a full stop; empty where the answer may be shown.

    Args:
        prediction: of the cascade.
        uses_mask: whether the classifier was trained on masked crops, so that it needs a lesion.
    """
    reasons = [item for item in prediction.warnings if item.startswith(NOT_A_LESION)]
    score = prediction.out_of_distribution_score
    if not reasons and score is not None and score > 1:
        digits = 1 if score > 2 else 2
        reasons.append(
            "it is not like the dermoscopic images that the model was trained on: its "
            f"out-of-distribution score {score:.{digits}f} is above the limit of 1"
        )
    if prediction.box is None and uses_mask:
        reasons.append("no lesion was found")
    if not reasons and not prediction.probabilities:
        reasons.append("the cascade abstains")
    return tuple(reasons)
