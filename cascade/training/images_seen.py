"""Which images a network has seen, as its file tells: they cannot judge it."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from cascade.data.splits import Splits
from cascade.errors import DataError


def images_seen(*provenances: Mapping[str, Any]) -> dict[str, list[str]]:
    """``trained_on`` and ``validated_on`` of what several trainings made together.

    The second is the part of the first that chose the epochs of some and trained none of them.
    """
    seen = {mark for made in provenances for mark in made.get("trained_on", ())}
    learnt = {mark for made in provenances for mark in learnt_from(made)["trained_on"]}
    return {"trained_on": sorted(seen), "validated_on": sorted(seen - learnt)}


def without_images(provenance: Mapping[str, Any]) -> dict[str, Any]:
    """How a network was made, without the long lists of images."""
    lists = ("trained_on", "validated_on")
    return {key: value for key, value in provenance.items() if key not in lists}


def learnt_from(provenance: Mapping[str, Any]) -> dict[str, Sequence[str]]:
    """The same, without the images that only validated the epochs, where the file tells them."""
    validated = set(provenance.get("validated_on", ()))
    return {"trained_on": [m for m in provenance.get("trained_on", ()) if m not in validated]}


def image_marks(names: Sequence[str]) -> list[str]:
    """Short digests of image names, so that a model's file can tell which images it has seen."""
    stems = {Path(name).stem for name in names}
    return sorted(hashlib.sha256(stem.encode()).hexdigest()[:12] for stem in stems)


def division_of(provenance: Mapping[str, Any]) -> str | None:
    """Digest of the division that a network was trained with, where its file tells."""
    digest: str | None = provenance.get("splits", {}).get("digest")
    return digest


def require_same_division(provenance: Mapping[str, Any], splits: Splits) -> None:
    """Refuse images that may play another part here than in a classifier's training.

    Raises:
        DataError: the classifier was trained with another division.
    """
    if division_of(provenance) != splits.digest:
        raise DataError(
            "the classifier was trained with another division, so images that trained it may "
            "validate here, and the other way round; give the --splits of its training"
        )


def seen_images(provenance: Mapping[str, Any], names: Sequence[str]) -> list[str]:
    """Those of the images that a stage was trained or validated on."""
    seen = set(provenance.get("trained_on", ()))
    return [name for name in names if image_marks([name])[0] in seen]


def require_unseen(provenance: Mapping[str, Any], names: Sequence[str], *, model: str) -> None:
    """Refuse to evaluate a model on images that it was trained or validated on.

    Raises:
        DataError: some of the images were seen in training.
    """
    known = seen_images(provenance, names)
    if known:
        raise DataError(
            f"{model}: {len(known)} of {len(names)} images were used to train it, e.g. "
            f"{', '.join(known[:3])}; evaluate on other images, or pass --allow_seen to get "
            "numbers that are too good"
        )
