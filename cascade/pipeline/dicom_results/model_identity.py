"""Which model made a result, and how it was used."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class ModelIdentity:
    """What DICOM results say of the model.

    Attributes:
        version: of cascade.
        digest: SHA-256 of the model's tensors, 64 digits.
        cutoff: probability from which on a lesion counts as malignant.
    """

    version: str
    digest: str
    cutoff: float
