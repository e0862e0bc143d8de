"""Contours of masks on images: as arrays, as sheets, and as files of a whole table."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from cascade.errors import DataError
from cascade.imaging import check_image, check_mask, read_image, read_mask, write_image, write_mask
from cascade.progress import progress

if TYPE_CHECKING:
    from cascade.data.tables import Record, Table

TRUTH_COLOR = (240, 228, 66)
"""Yellow and solid: the contour that a person drew."""
PREDICTED_COLOR = (0, 190, 255)
"""Cyan and, beside a human contour, dashed: apart from yellow for colour-blind readers, too."""

Sketch = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
"""``(H, W, 3)`` uint8 RGB to the predicted mask ``(H, W)`` bool and, from a cascade, the crop that
the classifier saw."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _PAPER, _GAP = (30, 30, 30), (255, 255, 255), 8


def draw_outline(
    image: np.ndarray,
    mask: np.ndarray,
    color: tuple[int, int, int] = PREDICTED_COLOR,
    width: int | None = None,
    *,
    dashed: bool = False,
) -> np.ndarray:
    """Draw the outline of a mask on a copy of an image, with a dark rim so it shows on any skin.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        mask: ``(H, W)`` bool; empty draws nothing.
        color: RGB.
        width: thickness in pixels; by default one 150th of the shorter side.
        dashed: draw dashes instead of a solid line.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ShapeError: image or mask is of another type, or their sizes differ.
    """
    check_image(image)
    check_mask(mask, like=image)
    thickness = width or _line_px(image)
    drawn = np.ascontiguousarray(image).copy()
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    lines = [dash for contour in contours for dash in _dashes(contour, 6 * thickness)]
    for line_color, line_px in ((_INK, thickness + 2), (color, thickness)):
        if dashed:
            cv2.polylines(drawn, lines, False, line_color, line_px, cv2.LINE_AA)
        else:
            cv2.drawContours(drawn, contours, -1, line_color, line_px, cv2.LINE_AA)
    return drawn


def _dashes(contour: np.ndarray, length_px: int) -> list[np.ndarray]:
    """Pieces of a contour of one point a pixel, with gaps of the same length."""
    return [contour[start : start + length_px] for start in range(0, len(contour), 2 * length_px)]


def _line_px(image: np.ndarray) -> int:
    return max(1, round(min(image.shape[:2]) / 150))


def overlay(
    image: np.ndarray, truth: np.ndarray | None = None, predicted: np.ndarray | None = None
) -> np.ndarray:
    """Draw the human contour in solid yellow and the predicted one in dashed cyan on a copy.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        truth: ``(H, W)`` bool.
        predicted: ``(H, W)`` bool.
    """
    drawn = image.copy()
    if truth is not None:
        drawn = draw_outline(drawn, truth, TRUTH_COLOR)
    if predicted is not None:
        drawn = draw_outline(drawn, predicted, PREDICTED_COLOR, dashed=True)
    return drawn


def true_mask(record: Record, shape: tuple[int, int]) -> np.ndarray | None:
    """The human mask of a record, ``(H, W)`` bool of this shape, or ``None`` without one."""
    return None if record.mask_path is None else read_mask(record.mask_path, shape=shape)


def write_masks_and_overlays(
    folder: Path, table: Table, sketch: Sketch, *, masks: bool, overlays: bool
) -> None:
    """Write ``masks/STEM.png`` (0 and 255, original size) and ``overlays/STEM.jpg``.

    Args:
        folder: where the two folders go.
        table: the images.
        sketch: predicts the mask of an image.
        masks: write masks.
        overlays: write overlays, with the human contour where there is one.
    """
    if not (masks or overlays):
        return
    for record in progress(table, description="drawing"):
        image = read_image(record.image_path).pixels
        mask, _ = sketch(image)
        if masks:
            write_mask(folder / "masks" / f"{record.stem}.png", mask)
        if overlays:
            drawn = overlay(image, true_mask(record, image.shape[:2]), mask)
            write_image(folder / "overlays" / f"{record.stem}.jpg", drawn)


def contact_sheet(
    tiles: Sequence[np.ndarray], captions: Sequence[str], columns: int = 4, *, tile_px: int = 240
) -> np.ndarray:
    """Lay images out in rows, each fitted into a square with its caption below.

    Args:
        tiles: ``(H, W, 3)`` uint8 RGB each, of any size.
        captions: one a tile; a line break starts a second line. Long lines are set smaller, then
            cut; letters outside ASCII show as ``?``.
        columns: tiles in a row.
        tile_px: side of a square.

    Returns:
        ``(H, W, 3)`` uint8 RGB on white.

    Raises:
        DataError: there are no tiles, or another number of captions.
    """
    if not tiles or len(tiles) != len(captions) or columns < 1:
        raise DataError(
            f"a contact sheet needs tiles, a caption each and a column; got {len(tiles)} tiles, "
            f"{len(captions)} captions and {columns} columns"
        )
    line_px = max(16, tile_px // 13)
    columns = min(columns, len(tiles))
    text_px = max(len(caption.split("\n")) for caption in captions) * line_px
    cells = [
        _cell(tile, caption, tile_px=tile_px, text_px=text_px, line_px=line_px)
        for tile, caption in zip(tiles, captions, strict=True)
    ]
    cells += [np.full_like(cells[0], _PAPER[0])] * (-len(cells) % columns)
    rows = [np.hstack(cells[start : start + columns]) for start in range(0, len(cells), columns)]
    return np.pad(np.vstack(rows), ((_GAP, 0), (_GAP, 0), (0, 0)), constant_values=_PAPER[0])


def _cell(
    tile: np.ndarray, caption: str, *, tile_px: int, text_px: int, line_px: int
) -> np.ndarray:
    """An image in the middle of a square, with its caption below."""
    small = fitted(tile, tile_px)
    height, width = small.shape[:2]
    cell = np.full((tile_px + text_px, tile_px, 3), _PAPER, np.uint8)
    top, left = (tile_px - height) // 2, (tile_px - width) // 2
    cell[top : top + height, left : left + width] = small
    for number, line in enumerate(caption.split("\n"), start=1):
        baseline = tile_px + number * line_px - line_px // 5
        _write(cell, line, (0, baseline), width_px=tile_px, line_px=line_px)
    return np.pad(cell, ((0, _GAP), (0, _GAP), (0, 0)), constant_values=_PAPER[0])


def fitted(tile: np.ndarray, side: int) -> np.ndarray:
    """Scale an image so that its longer side has ``side`` pixels.

    Args:
        tile: ``(H, W, 3)`` uint8 RGB.
        side: in pixels.
    """
    check_image(tile)
    scale = side / max(tile.shape[:2])
    size = (max(1, round(tile.shape[1] * scale)), max(1, round(tile.shape[0] * scale)))
    interpolation = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return cv2.resize(np.ascontiguousarray(tile), size, interpolation=interpolation)


def _write(
    sheet: np.ndarray, text: str, origin: tuple[int, int], *, width_px: int, line_px: int
) -> None:
    text = text.encode("ascii", "replace").decode()
    scale = line_px / 34
    width = cv2.getTextSize(text, _FONT, scale, 1)[0][0]
    scale *= max(0.8, min(1.0, width_px / max(1, width)))
    while len(text) > 3 and cv2.getTextSize(text, _FONT, scale, 1)[0][0] > width_px:
        text = text.rstrip(".")[:-1] + "..."
    cv2.putText(sheet, text, origin, _FONT, scale, _INK, 1, cv2.LINE_AA)
