"""Outlines on images, and sheets of them, as arrays."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np

from cascade.errors import DataError, ShapeError

TRUTH_COLOR = (240, 228, 66)
"""Yellow: the human outline."""
PREDICTED_COLOR = (0, 190, 255)
"""Cyan: the network's outline; apart from yellow for colour-blind readers too."""

_FONT = cv2.FONT_HERSHEY_SIMPLEX
_INK, _PAPER, _GAP = (30, 30, 30), (255, 255, 255), 8


def draw_outline(
    image: np.ndarray,
    mask: np.ndarray,
    color: tuple[int, int, int] = PREDICTED_COLOR,
    width: int | None = None,
) -> np.ndarray:
    """Draw the outline of a mask on a copy of an image, with a dark rim so it shows on any skin.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        mask: ``(H, W)`` bool; empty draws nothing.
        color: RGB.
        width: thickness in pixels; by default one 150th of the shorter side.

    Returns:
        ``(H, W, 3)`` uint8 RGB.

    Raises:
        ShapeError: image or mask is of another type, or their sizes differ.
    """
    _check(image, mask)
    thickness = width or _line_px(image)
    drawn = np.ascontiguousarray(image).copy()
    contours, _ = cv2.findContours(mask.astype(np.uint8), cv2.RETR_LIST, cv2.CHAIN_APPROX_NONE)
    cv2.drawContours(drawn, contours, -1, _INK, thickness + 2, cv2.LINE_AA)
    cv2.drawContours(drawn, contours, -1, color, thickness, cv2.LINE_AA)
    return drawn


def _line_px(image: np.ndarray) -> int:
    return max(1, round(min(image.shape[:2]) / 150))


def _check(image: np.ndarray, mask: np.ndarray) -> None:
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8:
        raise ShapeError(
            f"an image is (H, W, 3) uint8, got {image.shape} {image.dtype}",
            expected="(H, W, 3) uint8",
            actual=image.shape,
        )
    if mask.shape != image.shape[:2] or mask.dtype != np.bool_:
        raise ShapeError(
            f"the mask is {mask.shape} {mask.dtype}; for this image it is {image.shape[:2]} bool",
            expected=image.shape[:2],
            actual=mask.shape,
        )


def overlay(
    image: np.ndarray, truth: np.ndarray | None = None, predicted: np.ndarray | None = None
) -> np.ndarray:
    """Draw the human outline in yellow and the predicted one in cyan on a copy of an image.

    Args:
        image: ``(H, W, 3)`` uint8 RGB.
        truth: ``(H, W)`` bool.
        predicted: ``(H, W)`` bool.
    """
    drawn = image.copy()
    if truth is not None:
        # wider, so that it still shows where both outlines run together
        width = _line_px(image) + (4 if predicted is not None else 0)
        drawn = draw_outline(drawn, truth, TRUTH_COLOR, width)
    if predicted is not None:
        drawn = draw_outline(drawn, predicted, PREDICTED_COLOR)
    return drawn


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
    rows = [cells[start : start + columns] for start in range(0, len(cells), columns)]
    width = columns * (tile_px + _GAP) + _GAP
    return np.concatenate([_row(row, width=width, text_px=text_px) for row in rows])


def _row(cells: Sequence[np.ndarray], *, width: int, text_px: int) -> np.ndarray:
    """Cells side by side; as high as the highest image and the captions need."""
    height = max(cell.shape[0] for cell in cells)
    row = np.full((height + 2 * _GAP, width, 3), _PAPER, np.uint8)
    left = _GAP
    for cell in cells:
        picture_px = cell.shape[0] - text_px
        down = _GAP + (height - cell.shape[0]) // 2
        row[down : down + picture_px, left : left + cell.shape[1]] = cell[:picture_px]
        captions = slice(_GAP + height - text_px, _GAP + height)
        row[captions, left : left + cell.shape[1]] = cell[picture_px:]
        left += cell.shape[1] + _GAP
    return row


def _cell(
    tile: np.ndarray, caption: str, *, tile_px: int, text_px: int, line_px: int
) -> np.ndarray:
    """An image, centred across, with its caption below."""
    fitted = _fitted(tile, tile_px)
    height, width = fitted.shape[:2]
    cell = np.full((height + text_px, tile_px, 3), _PAPER, np.uint8)
    left = (tile_px - width) // 2
    cell[:height, left : left + width] = fitted
    for number, line in enumerate(caption.split("\n"), start=1):
        baseline = height + number * line_px - line_px // 5
        _write(cell, line, (0, baseline), width_px=tile_px, line_px=line_px)
    return cell


def _fitted(tile: np.ndarray, side: int) -> np.ndarray:
    _check(tile, np.zeros(tile.shape[:2], bool))
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
