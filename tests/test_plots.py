"""Figures and overlays: written, sized, safe with odd numbers."""

from __future__ import annotations

import sys

import cv2
import numpy as np
import pytest

from cascade.errors import DataError, ShapeError
from cascade.evaluation.overlays import (
    PREDICTED_COLOR,
    TRUTH_COLOR,
    contact_sheet,
    draw_outline,
    overlay,
)
from cascade.evaluation.plots import (
    plot_classification,
    plot_history,
    plot_iou_histogram,
    read_history,
)
from cascade.metrics.classification import classification_metrics
from cascade.metrics.segmentation import PixelCounts, iou, segmentation_metrics


def picture(path):
    image = cv2.imread(str(path))
    assert image is not None
    assert image.min() < 100 < image.max()
    return image


@pytest.fixture
def scores():
    generator = np.random.default_rng(0)
    labels = generator.integers(0, 2, 60)
    return labels, np.clip(generator.normal(0.3 + 0.4 * labels, 0.2), 0, 1)


def test_every_classification_figure_is_written(scores, tmp_path):
    metrics = classification_metrics(*scores, cutoff=0.4)
    paths = plot_classification(*scores, metrics, tmp_path)
    assert [path.name for path in paths] == [
        "confusion_matrix.png",
        "reliability.png",
        "roc.png",
        "precision_recall.png",
    ]
    for path in paths:
        picture(path)
    pyplot = sys.modules.get("matplotlib.pyplot")
    assert pyplot is None or pyplot.get_fignums() == []  # no global state is left behind


def test_one_class_leaves_the_curves_out(scores, tmp_path):
    labels = np.zeros(60, int)
    metrics = classification_metrics(labels, scores[1])
    paths = plot_classification(labels, scores[1], metrics, tmp_path)
    assert [path.name for path in paths] == ["confusion_matrix.png", "reliability.png"]


def test_curves_without_intervals_are_drawn(tmp_path):
    labels, probabilities = np.array([0, 1]), np.array([0.1, 0.2])
    metrics = classification_metrics(labels, probabilities)
    assert len(plot_classification(labels, probabilities, metrics, tmp_path)) == 4


def test_iou_histogram_is_written(tmp_path):
    counts = [PixelCounts(n, 3, 4, 50) for n in range(30)]
    values = [iou(item) for item in counts]
    picture(plot_iou_histogram(values, segmentation_metrics(counts), tmp_path / "iou.png"))


def test_history_is_read_and_drawn(tmp_path):
    table = tmp_path / "history.csv"
    table.write_text(
        "epoch,train_loss,validation_loss,learning_rate,mean_iou,seconds,note\n"
        "1,0.9,1.0,0.001,0.4,30,start\n2,0.5,,0.0005,nan,31,\n3,0.4,0.6,0.0001,0.7,29,\n"
    )
    history = read_history(table)
    assert history["validation_loss"] == [1.0, None, 0.6]
    assert history["mean_iou"] == [0.4, None, 0.7]
    assert "note" not in history
    picture(plot_history(history, tmp_path / "history.png"))


def test_history_of_one_epoch_is_drawn(tmp_path):
    picture(plot_history({"epoch": [1], "train_loss": [0.5]}, tmp_path / "history.png"))


@pytest.mark.parametrize("history", [{}, {"epoch": [1]}, {"train_loss": [1]}])
def test_history_without_columns_is_refused(history, tmp_path):
    with pytest.raises(DataError, match="epoch"):
        plot_history(history, tmp_path / "history.png")


def test_same_numbers_give_the_same_file(tmp_path):
    history = {"epoch": [1, 2], "train_loss": [0.5, 0.4]}
    first, second = (plot_history(history, tmp_path / name) for name in ("a.png", "b.png"))
    assert first.read_bytes() == second.read_bytes()


def test_outline_is_drawn_on_a_copy_and_inside_is_untouched():
    image = np.full((60, 80, 3), 128, np.uint8)
    mask = np.zeros((60, 80), bool)
    mask[15:45, 20:60] = True
    drawn = draw_outline(image, mask, (255, 0, 0), 1)
    assert (image == 128).all()
    red, green, blue = drawn[15, 40].tolist()  # edges are smoothed, so nearly that colour
    assert red > 200 > 50 > max(green, blue)
    assert (drawn[30, 40] == 128).all()
    assert (drawn[5, 5] == 128).all()


def test_overlay_shows_both_outlines_even_where_they_agree():
    image = np.full((300, 300, 3), 128, np.uint8)
    mask = np.zeros((300, 300), bool)
    mask[100:200, 100:200] = True
    drawn = overlay(image, mask, mask).reshape(-1, 3)
    for color in (TRUTH_COLOR, PREDICTED_COLOR):
        assert (np.abs(drawn.astype(int) - color).sum(axis=1) < 60).any()


def test_predicted_contour_is_dashed_and_the_human_one_is_solid():
    image = np.full((300, 300, 3), 128, np.uint8)
    mask = np.zeros((300, 300), bool)
    mask[100:200, 100:200] = True
    for drawn, color, least, most in (
        (overlay(image, truth=mask), TRUTH_COLOR, 0.95, 1.0),
        (overlay(image, predicted=mask), PREDICTED_COLOR, 0.3, 0.7),
    ):
        upper_side = drawn[100, 105:195].astype(int)
        share = (np.abs(upper_side - color).sum(axis=1) < 60).mean()
        assert least <= share <= most


def test_overlay_of_nothing_is_the_image():
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3)).astype(np.uint8)
    assert np.array_equal(overlay(image), image)
    empty = np.zeros((20, 30), bool)
    assert np.array_equal(overlay(image, empty, empty), image)


def test_overlay_refuses_other_shapes_and_types():
    image, mask = np.zeros((8, 9, 3), np.uint8), np.zeros((8, 9), bool)
    for other_image, other_mask in (
        (image.astype(np.float32), mask),
        (image[..., 0], mask),
        (image, mask.T),
        (image, mask.astype(np.uint8)),
    ):
        with pytest.raises(ShapeError):
            draw_outline(other_image, other_mask)


def test_contact_sheet_holds_each_tile_and_a_caption():
    tiles = [np.full((30 + 10 * n, 50, 3), 40 * n, np.uint8) for n in range(5)]
    sheet = contact_sheet(tiles, [f"tile {n}\nIoU 0.5" for n in range(5)], 3, tile_px=100)
    assert sheet.dtype == np.uint8
    assert sheet.shape[1] == 3 * 108 + 8
    for n in range(5):
        assert (sheet == 40 * n).all(axis=2).sum() > 1000


def test_contact_sheet_survives_long_and_foreign_captions():
    tile = np.zeros((20, 20, 3), np.uint8)
    sheet = contact_sheet([tile, tile], ["x" * 500, "Läsion ☃"], 2, tile_px=64)
    assert sheet.shape[1] == 2 * 72 + 8


def test_contact_sheet_needs_a_caption_each():
    with pytest.raises(DataError, match="caption"):
        contact_sheet([np.zeros((4, 4, 3), np.uint8)], [])
    with pytest.raises(DataError):
        contact_sheet([], [])
