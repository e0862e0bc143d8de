"""Masks that several segmenters and views agree on, and trainings that learn from them."""

from dataclasses import replace

import cv2
import numpy as np
import pytest
from sklearn.metrics import jaccard_score
from tiny_training import SEGMENTER
from tiny_training import segmentation_settings as settings

from cascade.command_line import main as console
from cascade.command_line.options import with_pseudo_masks
from cascade.errors import DataError, ImageError
from cascade.lesion.masking import MaskPolicy, find_lesion
from cascade.models.segmenter import Segmenter
from cascade.pipeline.stages import segment
from cascade.training.images_seen import image_marks
from cascade.training.predicted_masks import all_views, view_agreement, write_masks
from cascade.training.segmentation import train_segmenter

POLICY = MaskPolicy(threshold=0.5, minimum_area=0.0, keep="all", fill_holes=False)


@pytest.fixture(scope="module")
def segmenters():
    built = []
    for size in (32, 64):
        segmenter = Segmenter.build(replace(SEGMENTER, size=size)).eval()
        built.append(segmenter)
    return built


@pytest.fixture
def bare(table):
    """The table without the masks of every second image."""
    return replace(table, records=tuple(
        replace(record, mask_path=None) if number % 2 else record
        for number, record in enumerate(table)
    ))  # fmt: skip


def test_the_agreement_is_the_mean_iou_with_the_common_mask():
    maps = np.random.default_rng(0).random((4, 6, 6)).astype(np.float32)
    common = maps.mean(axis=0) >= 0.4
    expected = [jaccard_score(common.ravel(), (one >= 0.4).ravel()) for one in maps]
    assert view_agreement(maps, threshold=0.4) == pytest.approx(np.mean(expected))


def test_views_that_are_alike_agree_and_an_image_without_a_lesion_does_not():
    maps = np.zeros((3, 4, 4), np.float32)
    assert view_agreement(maps, threshold=0.5) == 0
    maps[:, :2] = 1
    assert view_agreement(maps, threshold=0.5) == 1


def test_views_of_all_segmenters_have_the_size_of_the_largest(segmenters):
    image = np.random.default_rng(0).integers(0, 255, (40, 56, 3), np.uint8)
    maps = all_views(segmenters, image, tta="flips")
    assert maps.shape == (8, 64, 64)
    np.testing.assert_allclose(maps[4], segment(segmenters[1], [image])[0], atol=1e-5)
    small = cv2.resize(segment(segmenters[0], [image])[0], (64, 64))
    np.testing.assert_allclose(maps[0], small, atol=1e-5)


def test_a_mask_is_that_of_the_mean_map_and_is_left_out_where_views_disagree(
    segmenters, table, tmp_path
):
    some = table.subset(table.names()[:3])
    result = write_masks(segmenters, some, tmp_path, POLICY, tta="flips")
    assert (result.written, result.kept, result.doubted) == (3, 0, 0)
    image = cv2.imread(str(some.records[0].image_path))[..., ::-1]
    mean = all_views(segmenters, image, tta="flips").mean(axis=0)
    expected = find_lesion(mean, POLICY, shape=image.shape[:2]).mask
    written = cv2.imread(str(tmp_path / f"{some.records[0].stem}.png"), cv2.IMREAD_GRAYSCALE) > 0
    np.testing.assert_array_equal(written, expected.astype(bool))
    result = write_masks(segmenters, some, tmp_path / "new", POLICY, tta="flips", agreement=1.0)
    assert (result.written, result.doubted) == (0, 3)


def test_predicted_masks_are_for_training_images_without_their_own(bare, table, splits, tmp_path):
    for record in table:
        (tmp_path / f"{record.stem}.png").write_bytes(record.mask_path.read_bytes())
    validating = set(splits.validation)
    found = with_pseudo_masks(str(tmp_path), bare, splits)
    for record in bare:
        known = next((item for item in found if item.name == record.name), None)
        if record.mask_path:
            assert known == record, "its own mask stays"
        elif record.name in validating:
            assert known is None, "nothing is judged by a predicted mask"
        else:
            assert known.mask_path == tmp_path / f"{record.stem}.png"
    assert any(not record.mask_path and record.name in validating for record in bare)


def test_a_folder_without_a_mask_for_them_is_named(bare, splits, tmp_path):
    with pytest.raises(DataError, match=r"--pseudo_masks .*holds no STEM.png for any of the"):
        with_pseudo_masks(str(tmp_path), bare, splits)


def test_empty_and_broken_masks_teach_nobody(bare, table, splits, tmp_path):
    names = [record.name for record in bare if not record.mask_path]
    for record in table.subset(names):
        cv2.imwrite(str(tmp_path / f"{record.stem}.png"), np.zeros((8, 8), np.uint8))
    with pytest.raises(DataError, match=r"masks are empty, e\.g\."):
        with_pseudo_masks(str(tmp_path), bare, splits)
    for record in table.subset(names):
        (tmp_path / f"{record.stem}.png").write_bytes(b"junk")
    with pytest.raises(ImageError, match=r"\.png"):
        with_pseudo_masks(str(tmp_path), bare, splits)


def test_the_commands_make_pseudo_masks_and_learn_from_them(
    table, splits, segmenters, tmp_path, capsys, caplog
):
    data = table.path.parent
    model = tmp_path / "segmenter.safetensors"
    segmenters[0].save(model)
    masks = tmp_path / "masks"
    segmenting = ["segment", "--model", str(model), "--data_path", str(data), "--output",
                  str(masks), "--limit", "6", "--device", "cpu"]  # fmt: skip
    assert console.main([*segmenting, "--more_models", str(model), "--tta", "flips"]) == 0
    assert "written: 6 masks" in capsys.readouterr().out
    assert len(list(masks.glob("*.png"))) == 6
    assert console.main([*segmenting, "--overwrite", "--agreement", "1"]) == 2
    assert "one view agrees with itself" in capsys.readouterr().err
    agreeing = [*segmenting, "--tta", "flips", "--agreement"]
    assert console.main([*agreeing, "0.01", "--overwrite"]) == 0
    said = capsys.readouterr().out
    assert "images without one for want of agreement" in said
    assert f"--pseudo_masks {masks}" in said
    assert console.main([*agreeing, "0.9", "--resume"]) == 2
    assert "agreement was 0.01, now it is 0.9" in capsys.readouterr().err
    assert console.main([*agreeing, "0.01", "--resume"]) == 0
    assert console.main([*segmenting[:-4], "--tta", "flips", "--agreement", "1",
                         "--overwrite"]) == 2  # fmt: skip
    assert "no image has a mask" in capsys.readouterr().err
    assert console.main([*segmenting, "--overwrite", "--agreement", "1.5"]) == 2
    assert "--agreement 1.5: give an IoU from 0 to 1" in capsys.readouterr().err


def test_an_image_that_cannot_be_read_costs_its_own_mask_only(segmenters, tmp_path, capsys, caplog):
    data = tmp_path / "data"
    (data / "images_all").mkdir(parents=True)
    names = ["a.png", "b.png", "c.png"]
    for name in names:
        cv2.imwrite(str(data / "images_all" / name), np.full((48, 64, 3), 90, np.uint8))
    (data / "images_all" / "b.png").write_bytes(b"no image")
    rows = "".join(f"{name}\n" for name in names)
    (data / "train_data.csv").write_text("name\n" + rows)
    model = tmp_path / "segmenter.safetensors"
    segmenters[0].save(model)
    masks = tmp_path / "masks"
    flags = ["segment", "--model", str(model), "--data_path", str(data), "--output", str(masks)]
    assert console.main(flags) == 3
    assert "written: 2 masks" in capsys.readouterr().out
    assert "b.png" in caplog.text
    assert sorted(path.name for path in masks.glob("*.png")) == ["a.png", "c.png"]


def test_a_validation_image_of_an_earlier_division_may_validate_again(table, splits, tmp_path):
    """A division of more images is another one, though the old images keep their part in it."""
    half = sorted(splits.train)[: len(splits.train) // 2]
    smaller = replace(splits, train=tuple(half))
    fewer = table.subset([*half, *splits.validation])
    train = {"config": SEGMENTER, "training": settings(), "device": "cpu"}
    train_segmenter(fewer, smaller, output=tmp_path / "first", **train)
    first = tmp_path / "first" / "best.safetensors"
    train["initial_model"] = first
    second = train_segmenter(table, splits, output=tmp_path / "second", **train)
    assert set(second.provenance["validated_on"]) < set(second.provenance["trained_on"])
    turned = replace(splits, train=splits.validation, validation=tuple(half))
    with pytest.raises(DataError, match="use the --splits of that training"):
        train_segmenter(table, turned, output=tmp_path / "third", **train)


def test_images_without_a_mask_do_not_count_as_seen(bare, splits, tmp_path):
    masked = bare.with_mask()
    train = {"config": SEGMENTER, "training": settings(), "device": "cpu"}
    segmenter = train_segmenter(masked, splits, output=tmp_path / "run", **train)
    assert segmenter.provenance["trained_on"] == image_marks(masked.names())
    assert len(masked) < len(bare)
