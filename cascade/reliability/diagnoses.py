"""Which diagnosis it is, in probabilities that agree with the probability of malignant.

The network answers two questions: how probable malignant is, and which diagnosis it is if it is
malignant, or if it is benign. The answer to the second are shares: those of the malignant diagnoses
sum to 1, and so do those of the benign ones. Then::

    p(diagnosis) = p(its class) * share(diagnosis | its class)

so the malignant diagnoses sum to the calibrated probability of malignant, and all sum to 1.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from cascade.config import CLASSES
from cascade.errors import ConfigError

_SPELLINGS = {
    "melanoma": ("mel", "malignant melanoma", "melanoma in situ", "melanoma invasive"),
    "melanocytic nevus": ("nevus", "nv", "naevus", "melanocytic naevus"),
    "basal cell carcinoma": ("bcc",),
    "squamous cell carcinoma": ("scc",),
    "actinic keratosis": ("ak", "akiec", "actinic keratosis or intraepithelial carcinoma",
                          "solar or actinic keratosis"),
    "benign keratosis": ("bkl", "pigmented benign keratosis", "seborrheic keratosis",
                         "solar lentigo", "lichen planus like keratosis"),
    "dermatofibroma": ("df",),
    "vascular lesion": ("vasc", "benign soft tissue proliferations - vascular"),
}  # fmt: skip
_NAMES = {other: name for name, others in _SPELLINGS.items() for other in (name, *others)}


def diagnosis_name(text: str) -> str:
    """The name by which this library calls a diagnosis; empty where nothing is said.

    Capitals do not count, and neither does the addition "NOS" (not otherwise specified). What the
    public data sets call the eight diagnoses of ISIC 2019 becomes one name each; ISIC 2018 counts
    seborrheic keratoses, solar lentigines and lichen planus-like keratoses as benign keratoses.
    Any other diagnosis keeps its own name.
    """
    plain = " ".join(text.replace("_", " ").split()).casefold().removesuffix(", nos")
    return _NAMES.get(plain, plain)


@dataclass(frozen=True)
class Diagnoses:
    """The diagnoses that a classifier tells apart.

    Attributes:
        benign: names of the benign ones.
        malignant: names of the malignant ones.
        training_shares: share of each in the training images, the benign ones first; they sum to 1.
    """

    benign: tuple[str, ...]
    malignant: tuple[str, ...]
    training_shares: tuple[float, ...]

    def __post_init__(self) -> None:
        names = self.names
        if not (self.benign and self.malignant) or len(set(names)) < len(names):
            raise ConfigError(
                f"the diagnoses are {list(self.benign)} (benign) and {list(self.malignant)} "
                "(malignant); give each class at least one, and name each once"
            )
        if len(self.training_shares) != len(names) or not min(self.training_shares) > 0:
            raise ConfigError(
                f"the shares of the diagnoses are {list(self.training_shares)}; give a positive "
                f"one for each of {len(names)}"
            )

    @classmethod
    def of_images(cls, names: Sequence[str], malignant: Iterable[str]) -> Self:
        """Those of the training images, of which ``malignant`` names the malignant ones.

        ``names`` has one diagnosis an image; empty ones do not count.
        """
        named = [name for name in names if name]
        bad = set(malignant)
        sides = (sorted(set(named) - bad), sorted(set(named) & bad))
        shares = tuple(named.count(name) / len(named) for side in sides for name in side)
        return cls(tuple(sides[0]), tuple(sides[1]), shares)

    @property
    def names(self) -> tuple[str, ...]:
        """All names, the benign ones first: the order of shares and probabilities."""
        return (*self.benign, *self.malignant)

    def describe(self) -> list[dict[str, Any]]:
        """As plain JSON values."""
        classes = [CLASSES[0]] * len(self.benign) + [CLASSES[1]] * len(self.malignant)
        return [
            {"name": name, "class": label, "training_share": share}
            for name, label, share in zip(self.names, classes, self.training_shares, strict=True)
        ]

    @classmethod
    def from_description(cls, description: Sequence[Mapping[str, Any]] | None) -> Self | None:
        """Read :meth:`describe`; ``None`` for a model that tells no diagnoses.

        Raises:
            ConfigError: the description is of another kind.
        """
        if not description:
            return None
        try:
            ordered = sorted(description, key=lambda item: CLASSES.index(item["class"]))
            sides = [
                tuple(str(item["name"]) for item in ordered if item["class"] == label)
                for label in CLASSES
            ]
            shares = tuple(float(item["training_share"]) for item in ordered)
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(f"the diagnoses of a model cannot be read ({error!r})") from error
        return cls(sides[0], sides[1], shares)

    def probabilities(self, classes: np.ndarray, shares: np.ndarray) -> np.ndarray:
        """Probability of each diagnosis.

        Args:
            classes: ``(N, 2)`` probabilities of benign and malignant.
            shares: ``(N, K)`` of each diagnosis within its class.

        Returns:
            ``(N, K)`` float64; the malignant ones sum to that of malignant, all to 1.
        """
        exact = np.asarray(classes, np.float64)
        return exact[:, self._class_of()] * self._within(np.asarray(shares, np.float64))

    def shares(self, probabilities: np.ndarray) -> np.ndarray:
        """``(N, K)`` probabilities, or their mean over views, back to shares within each class.

        Where a class has no probability at all, its diagnoses share it equally.
        """
        return self._within(np.asarray(probabilities, np.float64))

    def likeliest_of_equals(self, probabilities: np.ndarray) -> np.ndarray:
        """The place of the diagnosis to name if all diagnoses were equally frequent.

        Each probability is divided by the share of the diagnosis in the training images. If the
        probabilities are right, no other rule has a higher mean recall (balanced accuracy).

        Args:
            probabilities: ``(N, K)``.
        """
        return (np.asarray(probabilities) / np.array(self.training_shares)).argmax(axis=1)

    def _class_of(self) -> np.ndarray:
        return np.repeat((0, 1), (len(self.benign), len(self.malignant)))

    def _within(self, values: np.ndarray) -> np.ndarray:
        parts = []
        for part in (values[:, : len(self.benign)], values[:, len(self.benign) :]):
            total = part.sum(axis=1, keepdims=True)
            equal = np.full_like(part, 1 / part.shape[1])
            parts.append(np.divide(part, total, out=equal, where=total > 0))
        return np.concatenate(parts, axis=1)
