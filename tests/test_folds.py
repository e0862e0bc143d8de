import numpy as np
import pytest
import yaml
from tiny_training import SEGMENTER as CONFIG
from tiny_training import interrupted, segmentation_settings, spy_trainings

from cascade.errors import ConfigError, DataError
from cascade.imaging import read_image, read_mask
from cascade.lesion.masking import MaskPolicy, find_lesion
from cascade.models.artifact import read_document
from cascade.models.segmenter import Segmenter
from cascade.pipeline.stages import segment
from cascade.training import folds as module
from cascade.training.folds import out_of_fold_masks
from cascade.training.images_seen import image_marks

TRAINING = segmentation_settings(augmentation="none")
POLICY = MaskPolicy(threshold=0.505, minimum_area=0.0, keep="all", fill_holes=False)


def run(table, folder, **changes):
    parts = {
        "folds": 2, "config": CONFIG, "training": TRAINING, "device": "cpu", "policy": POLICY,
        "validation_fraction": 0.3, **changes,
    }  # fmt: skip
    return out_of_fold_masks(table, output=folder, **parts)


@pytest.fixture(scope="module")
def done(table, tmp_path_factory):
    folder = tmp_path_factory.mktemp("oof") / "run"
    return folder, run(table, folder)


@pytest.fixture
def trainings(monkeypatch):
    return spy_trainings(monkeypatch, module, "train_segmenter")


def models(folder):
    return sorted(folder.glob("fold_*/best.safetensors"))


def test_every_image_gets_one_mask_of_its_own_size(done, table):
    _, masks = done
    assert {path.name for path in masks.iterdir()} == {f"{item.stem}.png" for item in table}
    for record in table:
        shape = read_image(record.image_path).shape
        assert read_mask(masks / f"{record.stem}.png", shape=shape).shape == shape


def test_each_mask_is_that_of_the_one_network_that_never_saw_the_image(done, table):
    folder, masks = done
    seen = {path: set(read_document(path)["provenance"]["segmenter"]["trained_on"])
            for path in models(folder)}  # fmt: skip
    networks = {path: Segmenter.load(path, device="cpu") for path in seen}
    assert len(networks) == 2
    differing = 0
    for record in table:
        (mark,) = image_marks([record.name])
        unseen = [path for path, marks in seen.items() if mark not in marks]
        assert len(unseen) == 1
        image = read_image(record.image_path).pixels
        expected = {
            path: find_lesion(segment(network, [image])[0], POLICY, shape=image.shape[:2]).mask
            for path, network in networks.items()
        }
        found = read_mask(masks / f"{record.stem}.png", shape=image.shape[:2])
        np.testing.assert_array_equal(found, expected.pop(unseen[0]))
        differing += not np.array_equal(found, *expected.values())
    assert differing > len(table) / 2  # else the comparison above would prove nothing


def test_no_group_is_on_both_sides_of_a_fold(done, table):
    folder, _ = done
    for path in models(folder):
        seen = set(read_document(path)["provenance"]["segmenter"]["trained_on"])
        sides = {True: set(), False: set()}
        for record in table:
            sides[image_marks([record.name])[0] in seen].add(record.group)
        assert sides[True]
        assert sides[False]
        assert not sides[True] & sides[False]


def test_a_resume_keeps_finished_folds_and_trains_the_others(table, tmp_path, trainings, done):
    folder, _ = done
    with interrupted(module, "train_segmenter", call=2):
        run(table, tmp_path / "run")
    kept = models(tmp_path / "run")[0]
    before = kept.stat().st_mtime_ns
    trainings.clear()
    masks = run(table, tmp_path / "run", resume=True)
    assert trainings == ["fold_1"]
    assert kept.stat().st_mtime_ns == before
    for path in masks.iterdir():  # as if it had never been stopped
        assert path.read_bytes() == (folder / "masks" / path.name).read_bytes()
    trainings.clear()
    run(table, tmp_path / "run", resume=True)
    assert trainings == []


def test_a_fold_that_was_stopped_in_its_first_epoch_can_be_resumed(table, tmp_path, done):
    from cascade.training import segmentation

    with interrupted(segmentation, "validate_segmenter", call=1):
        run(table, tmp_path / "run")
    assert (tmp_path / "run" / "fold_0" / "config.yaml").exists()
    masks = run(table, tmp_path / "run", resume=True)
    for path in masks.iterdir():
        assert path.read_bytes() == (done[1] / path.name).read_bytes()


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"folds": 3}, "folds was 2, is 3"),
        ({"policy": MaskPolicy()}, "mask_policy"),
        ({"resume": False}, "holds a run already"),
    ],
)
def test_finished_folds_are_never_mixed_with_others(done, table, trainings, changes, named):
    folder, _ = done
    with pytest.raises(ConfigError, match=named):
        run(table, folder, **{"resume": True, **changes})
    with pytest.raises(ConfigError, match="table_digest"):
        run(table.subset(table.names()[:-1]), folder, resume=True)
    assert trainings == []


def test_overwriting_forgets_the_earlier_run_at_once(table, tmp_path):
    folder = tmp_path / "run"
    for number in range(2):
        (folder / f"fold_{number}").mkdir(parents=True)
        (folder / f"fold_{number}" / "finished").touch()
        (folder / f"fold_{number}" / "config.yaml").write_text("size: 512\n")
    (folder / "masks").mkdir()
    (folder / "masks" / "old.png").write_bytes(b"old")
    (folder / "config.yaml").write_text(yaml.safe_dump({"folds": 2}))
    with interrupted(module, "train_segmenter", call=1):
        run(table, folder, overwrite=True)
    assert not list(folder.glob("fold_*/finished"))
    assert not list((folder / "masks").iterdir())


@pytest.mark.parametrize(("folds", "error"), [(1, ConfigError), (99, DataError)])
def test_an_impossible_number_of_folds_leaves_no_folder_behind(table, tmp_path, folds, error):
    with pytest.raises(error, match="folds"):
        run(table, tmp_path / "run", folds=folds)
    assert not (tmp_path / "run").exists()
