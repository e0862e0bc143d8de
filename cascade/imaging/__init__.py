"""Images and masks: bounded, strict decoding, orientation, resizing and writing.

The only deterministic preprocessing in cascade. Nothing here knows of torch.
"""

from cascade.imaging.checks import check_image, check_mask
from cascade.imaging.limits import ImageLimits, LoadedImage
from cascade.imaging.masks import read_mask
from cascade.imaging.orientation import (
    apply_orientation,
    displayed_shape,
    to_stored_box,
    to_stored_mask,
)
from cascade.imaging.paths import (
    FoundFile,
    expand_sources,
    iter_image_paths,
    printable,
    safe_stem,
)
from cascade.imaging.quality import ImageQuality, image_quality
from cascade.imaging.read import ImageSource, NamedBytes, read_image, read_shape
from cascade.imaging.resize import resize_pixels, resize_probability
from cascade.imaging.write import encode_image, encode_jpeg, encode_mask, write_image, write_mask

__all__ = [
    "FoundFile",
    "ImageLimits",
    "ImageQuality",
    "ImageSource",
    "LoadedImage",
    "NamedBytes",
    "apply_orientation",
    "check_image",
    "check_mask",
    "displayed_shape",
    "encode_image",
    "encode_jpeg",
    "encode_mask",
    "expand_sources",
    "image_quality",
    "iter_image_paths",
    "printable",
    "read_image",
    "read_mask",
    "read_shape",
    "resize_pixels",
    "resize_probability",
    "safe_stem",
    "to_stored_box",
    "to_stored_mask",
    "write_image",
    "write_mask",
]
