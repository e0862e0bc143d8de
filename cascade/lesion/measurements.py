"""Size, shape and colour of one lesion in numbers: the ABCD words of the clinic, from its mask.

A is asymmetry, B border irregularity, C colour variegation and D diameter. They describe the
outline that the mask draws and the pixels under it, they are no diagnosis, and no network is
involved. ``docs/measurements.md`` says what each number does not mean.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import cv2
import numpy as np

from cascade.errors import ConfigError, EmptyMaskError
from cascade.fields import described
from cascade.imaging import check_image, check_mask
from cascade.lesion.masking import Box, bounding_box

_BORDER_SIDE = 128
"""A lesion with a longer bounding box is reduced to this side for its border."""

_FOLDING_SIDE = 64
"""The same for its asymmetry."""

_COLOUR_SIDE = 96
"""The same for its colours."""

_OVERSAMPLING = 2
"""A large mask is sampled at up to this many times the working side before it is averaged."""

_SMOOTHING = 0.01
"""Standard deviation that smooths the outline, as a fraction of the equivalent diameter."""

_FOLDS = 18
"""Pairs of axes that are tried for asymmetry, evenly spread over 90 degrees."""


@dataclass(frozen=True)
class Measurements:
    """Size, shape and colour of one lesion. Not a diagnosis.

    Lengths and areas are those of the region that the mask's pixels cover, a pixel being a square
    of side 1: a single pixel has area 1 and diameter 1.41.
    """

    area_pixels: int = field(
        metadata=described("Number of pixels in the mask.", unit="px", example=45900)
    )
    area_fraction: float = field(
        metadata=described(
            "Share of the image that the mask covers, in (0, 1].",
            label="Area, share of the image",
            digits=3,
            example=0.17,
        )
    )
    area_square_millimetres: float | None = field(
        metadata=described(
            "Area in square millimetres; empty without a scale.",
            unit="mm²",
            label="Area",
            digits=1,
        )
    )
    diameter_pixels: float = field(
        metadata=described(
            "Largest distance between two points of the lesion (maximum Feret diameter).",
            unit="px",
            column="diameter_pixels",
            label="Diameter in pixels",
            digits=1,
            example=259.3,
        )
    )
    diameter_millimetres: float | None = field(
        metadata=described(
            "The same in millimetres; empty without a scale.",
            unit="mm",
            column="diameter_millimetres",
            label="Diameter",
            digits=1,
        )
    )
    asymmetry: float = field(
        metadata=described(
            "Share of the lesion without a counterpart when folded over two perpendicular axes, "
            "from 0 (discs, ellipses and rectangles) to 1.",
            column="asymmetry",
            label="Asymmetry",
            digits=2,
            example=0.11,
        )
    )
    border_irregularity: float = field(
        metadata=described(
            "Length of the contour divided by that of its convex hull; 1 for convex shapes, "
            "without an upper limit.",
            column="border_irregularity",
            label="Border irregularity",
            digits=2,
            example=1.06,
        )
    )
    colour_variegation: float = field(
        metadata=described(
            "Mean distance of the lesion's pixels from their mean colour in CIELAB, from 0 for one "
            "colour; differences below about 2 are hardly visible.",
            unit="CIELAB units",
            column="colour_variegation",
            label="Colour variegation",
            digits=1,
            example=14.2,
        )
    )
    mean_lightness: float = field(
        metadata=described(
            "Lightness L* of the lesion's mean colour in CIELAB, from 0 (black) to 100 (white).",
            unit="CIELAB units",
            column="mean_lightness",
            digits=1,
            example=41.3,
        )
    )
    mean_redness: float = field(
        metadata=described(
            "Coordinate a* of the same colour: positive for red, negative for green.",
            unit="CIELAB units",
            column="mean_redness",
            digits=1,
            example=17.5,
        )
    )
    mean_yellowness: float = field(
        metadata=described(
            "Coordinate b* of the same colour: positive for yellow, negative for blue.",
            unit="CIELAB units",
            column="mean_yellowness",
            digits=1,
            example=20.8,
        )
    )
    cut_off: bool = field(
        metadata=described(
            "The mask touches the image's border, so the lesion may extend beyond it: area and "
            "diameter are lower limits, and the shape is that of the visible part.",
            example=False,
        )
    )


def measure(
    image: np.ndarray,
    mask: np.ndarray,
    *,
    pixels_per_millimetre: float | None = None,
    reduction: float = 1.0,
) -> Measurements:
    """Measure one lesion.

    Area and diameter are exact for the pixels given. The rest is computed on at most 64
    (asymmetry), 128 (border) and 96 (colours) pixels along the longer side of the lesion's bounding
    box, so that it takes milliseconds and hardly depends on the camera's resolution.

    Args:
        image: ``(H, W, 3)`` uint8 RGB, original pixels.
        mask: ``(H, W)`` bool, all of it one lesion.
        pixels_per_millimetre: scale of the image, for instance from a dermatoscope's ruler.
        reduction: pixels of the original along one pixel of ``image``; lengths, areas and the scale
            are those of the original.

    Raises:
        ShapeError: the image or mask has another shape or type.
        EmptyMaskError: the mask is empty; there is nothing to measure.
        ConfigError: the scale is not a positive number.
    """
    check_image(image)
    check_mask(mask, image)
    check_scale(pixels_per_millimetre)
    box = bounding_box(mask)
    if box is None:
        raise EmptyMaskError("the mask is empty; there is no lesion to measure")
    top, left, bottom, right = box
    inside = mask[top:bottom, left:right]
    pixels = np.count_nonzero(inside)
    area = float(pixels) * reduction**2
    diameter = _diameter(_hull(inside)) * reduction
    sampled = inside[_grid(inside, _OVERSAMPLING * _BORDER_SIDE)]
    colours = _colours(image[top:bottom, left:right], inside)
    lightness, redness, yellowness = colours.mean(axis=0, dtype=np.float64).tolist()
    scale = pixels_per_millimetre
    return Measurements(
        area_pixels=int(area),
        area_fraction=float(pixels / mask.size),
        area_square_millimetres=None if scale is None else area / scale / scale,
        diameter_pixels=diameter,
        diameter_millimetres=None if scale is None else diameter / scale,
        asymmetry=_asymmetry(_reduced(sampled, _FOLDING_SIDE)),
        border_irregularity=_border_irregularity(sampled),
        colour_variegation=_colour_variegation(colours),
        mean_lightness=lightness,
        mean_redness=redness,
        mean_yellowness=yellowness,
        cut_off=_is_cut_off(box, mask.shape),
    )


def check_scale(pixels_per_millimetre: float | None) -> None:
    """Refuse a scale that is not a positive, finite number.

    Raises:
        ConfigError: the message says what was got.
    """
    if pixels_per_millimetre is None:
        return
    if not (math.isfinite(pixels_per_millimetre) and pixels_per_millimetre > 0):
        raise ConfigError(
            f"pixels_per_millimetre is {pixels_per_millimetre}; it must be a positive number, or "
            "left out where the scale is not known"
        )


def _is_cut_off(box: Box, shape: tuple[int, ...]) -> bool:
    top, left, bottom, right = box
    return top == 0 or left == 0 or bottom == shape[0] or right == shape[1]


def _hull(mask: np.ndarray) -> np.ndarray:
    """Corners ``(N, 2)`` float64 of the convex hull of pixel centres, as x and y, in order."""
    rows = np.flatnonzero(mask.any(axis=1))
    first = mask.argmax(axis=1)[rows]
    last = mask.shape[1] - 1 - mask[:, ::-1].argmax(axis=1)[rows]
    ends = np.stack([np.concatenate([first, last]), np.tile(rows, 2)], axis=1)
    return cv2.convexHull(ends.astype(np.int32)).reshape(-1, 2).astype(np.float64)


def _diameter(hull: np.ndarray) -> float:
    """Maximum Feret diameter; the two pixels that are farthest apart are corners of the hull."""
    x, y = hull.T
    wide, high = np.abs(np.subtract.outer(x, x)) + 1, np.abs(np.subtract.outer(y, y)) + 1
    return math.sqrt((wide * wide + high * high).max())


def _grid(mask: np.ndarray, side: int) -> tuple[slice, slice]:
    """A regular grid over a mask, at most ``side`` points long; every pixel if it misses all."""
    step = math.ceil(max(mask.shape) / side)
    grid = slice(step // 2, None, step)
    return (grid, grid) if mask[grid, grid].any() else (slice(None), slice(None))


def _reduced(coverage: np.ndarray, side: int) -> np.ndarray:
    """Covered share of each pixel, ``(h, w)`` float32 in [0, 1], at most ``side`` long."""
    longer = max(coverage.shape)
    values = coverage.astype(np.float32)
    if longer <= side:
        return values
    height, width = (max(1, round(length * side / longer)) for length in coverage.shape)
    return cv2.resize(values, (width, height), interpolation=cv2.INTER_AREA)


def _asymmetry(coverage: np.ndarray) -> float:
    """Least mean mismatch over pairs of perpendicular axes through the centroid, in [0, 1].

    For one axis the mismatch is ``area(lesion XOR mirrored lesion) / (2 area(lesion))``.
    """
    y, x = np.nonzero(coverage)
    weights = coverage[y, x].astype(np.float64)
    centroid = float(np.average(x, weights=weights)), float(np.average(y, weights=weights))
    dx, dy = x - centroid[0], y - centroid[1]
    principal = _principal_angle(dx, dy, weights)
    reach = math.ceil(np.hypot(dx, dy).max()) + 1
    angles = [principal + math.pi / 2 * fold / _FOLDS for fold in range(_FOLDS)]
    levels = np.rint(255 * coverage).astype(np.uint8)
    return min(_mismatch(levels, centroid, angle, reach) for angle in angles)


def _principal_angle(dx: np.ndarray, dy: np.ndarray, weights: np.ndarray) -> float:
    """Direction of the longest extent in radians; 0 for shapes without one, such as squares."""
    across = 2 * float(np.sum(weights * dx * dy))
    along = float(np.sum(weights * (dx * dx - dy * dy)))
    spread = float(np.sum(weights * (dx * dx + dy * dy)))
    if math.hypot(across, along) <= 1e-6 * spread:  # only rounding would choose a direction
        return 0.0
    return 0.5 * math.atan2(across, along)


def _mismatch(
    coverage: np.ndarray, centroid: tuple[float, float], angle: float, reach: int
) -> float:
    """Mean mismatch over the axis at ``angle`` and the one perpendicular to it."""
    cosine, sine = math.cos(angle), math.sin(angle)
    x, y = centroid
    turned = cv2.warpAffine(
        coverage,
        np.array(
            [
                [cosine, -sine, x - cosine * reach + sine * reach],
                [sine, cosine, y - sine * reach - cosine * reach],
            ]
        ),
        (2 * reach + 1, 2 * reach + 1),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
    )
    lost = sum(cv2.norm(turned, cv2.flip(turned, axis), cv2.NORM_L1) for axis in (0, 1))
    return float(lost / (4 * cv2.norm(turned, cv2.NORM_L1)))


def _border_irregularity(mask: np.ndarray) -> float:
    """Perimeter divided by the perimeter of the convex hull, from 1."""
    coverage = _reduced(mask, _BORDER_SIDE)
    pixel = max(mask.shape) / max(coverage.shape)
    equivalent_diameter = math.sqrt(4 / math.pi * float(coverage.sum()))
    smoothing = max(1 / pixel, _SMOOTHING * equivalent_diameter)
    around = _reduced(_filled_hull(mask), _BORDER_SIDE)
    # filling a notch can only shorten an outline; below 1 there is rounding
    return max(1.0, _perimeter(coverage, smoothing) / _perimeter(around, smoothing))


def _filled_hull(mask: np.ndarray) -> np.ndarray:
    """``(h, w)`` bool: the pixels whose centres lie in the convex hull of the mask's centres."""
    x, y = hull = _hull(mask).T
    dx, dy = np.roll(hull, -1, axis=1) - hull
    turning = float(np.sum(x * dy - y * dx))
    if turning == 0:  # a point or a straight line is its own hull
        return mask
    rows, columns = np.arange(mask.shape[0])[:, None], np.arange(mask.shape[1])
    slope = np.divide(dx, dy, out=np.zeros_like(dx), where=dy != 0)
    edges = x + (rows - y) * slope  # where the line through each side of the hull meets each row
    slack = 1e-6
    low = edges[:, dy * turning < 0].max(axis=1, keepdims=True) - slack
    high = edges[:, dy * turning > 0].min(axis=1, keepdims=True) + slack
    within = (rows >= y.min()) & (rows <= y.max())
    return np.asarray((columns >= low) & (columns <= high) & within)


def _perimeter(coverage: np.ndarray, smoothing: float) -> float:
    """Length of the outline in pixels: total variation of the smoothed mask (coarea formula).

    Unlike a count of pixel edges it does not grow with the staircase of a slanted outline.
    """
    margin = math.ceil(4 * smoothing) + 2
    height, width = coverage.shape
    # float64, because in float32 the last digits would vary
    padded = np.zeros((height + 2 * margin, width + 2 * margin))
    padded[margin:-margin, margin:-margin] = coverage
    smooth = cv2.GaussianBlur(padded, (0, 0), smoothing)
    down = smooth[2:, 1:-1] - smooth[:-2, 1:-1]  # twice the central differences
    across = smooth[1:-1, 2:] - smooth[1:-1, :-2]
    return float(cv2.magnitude(down, across).sum()) / 2


def _colours(image: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """``(N, 3)`` float32 CIELAB colours of the lesion's pixels, at most 192 along a side."""
    grid = _grid(mask, _COLOUR_SIDE)
    pixels = image[grid][mask[grid]]
    lab: np.ndarray = cv2.cvtColor(pixels[None].astype(np.float32) / 255, cv2.COLOR_RGB2LAB)[0]
    return lab


def _colour_variegation(lab: np.ndarray) -> float:
    """Mean CIELAB distance (CIE 1976) of the lesion's pixels from their mean colour, from 0."""
    from_mean = lab - lab.mean(axis=0, dtype=np.float64).astype(np.float32)
    return float(np.sqrt(np.square(from_mean).sum(axis=1)).mean(dtype=np.float64))
