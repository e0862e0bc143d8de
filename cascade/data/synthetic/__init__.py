"""Invented dermoscopy images with known masks and classes, for tests, demos and benchmarks.

They need no download and no licence. They teach nothing about skin: never report accuracy on them
as if it were accuracy on patients.
"""

from cascade.data.synthetic.dataset import SyntheticConfig, write_synthetic_dataset
from cascade.data.synthetic.lesion import SyntheticLesion, Traits, draw_lesion
from cascade.data.synthetic.non_lesions import NON_LESIONS, draw_non_lesion

__all__ = [
    "NON_LESIONS", "SyntheticConfig", "SyntheticLesion", "Traits", "draw_lesion", "draw_non_lesion",
    "write_synthetic_dataset",
]  # fmt: skip
