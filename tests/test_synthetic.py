import csv

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.data.splits import require_disjoint
from cascade.data.synthetic import SyntheticConfig, draw_lesion, write_synthetic_dataset
from cascade.data.tables import read_table
from cascade.errors import ConfigError, DataError


def auc(positive, negative):
    """Brute-force area under the ROC curve."""
    positive, negative = np.asarray(positive)[:, None], np.asarray(negative)[None, :]
    return float(np.mean((positive > negative) + 0.5 * (positive == negative)))


@pytest.fixture(scope="module")
def lesions():
    return [
        draw_lesion(np.random.default_rng([1, i]), malignant=i % 2 == 1, shape=(90, 120))
        for i in range(160)
    ]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic")
    write_synthetic_dataset(folder, SyntheticConfig(count_train=30, count_test=10, seed=3))
    return folder


@settings(max_examples=15, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    malignant=st.booleans(),
    height=st.integers(48, 200),
    width=st.integers(48, 200),
)
def test_each_drawing_has_one_lesion_without_holes(seed, malignant, height, width):
    drawn = draw_lesion(np.random.default_rng(seed), malignant=malignant, shape=(height, width))
    assert drawn.image.shape == (height, width, 3)
    assert drawn.image.dtype == np.uint8
    assert drawn.mask.shape == (height, width)
    assert drawn.mask.dtype == bool
    components, _ = cv2.connectedComponents(drawn.mask.astype(np.uint8))
    assert components == 2
    _, hierarchy = cv2.findContours(
        drawn.mask.astype(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_NONE
    )
    assert hierarchy.shape[1] == 1, "a hole"
    assert 0.005 < drawn.mask.mean() < 0.9


def test_another_view_shows_the_same_lesion_up_to_a_flip():
    first, second = (
        draw_lesion(np.random.default_rng(5), malignant=True, view=np.random.default_rng(view))
        for view in (1, 2)
    )
    assert first.traits == second.traits
    assert not np.array_equal(first.image, second.image)
    flips = [np.flip(first.mask, axes) for axes in ((), 0, 1, (0, 1))]
    assert any(np.array_equal(second.mask, flipped) for flipped in flips)


@pytest.mark.parametrize("trait", ["asymmetry", "irregularity", "colours"])
def test_each_trait_differs_between_the_classes_but_overlaps(lesions, trait):
    def values(malignant):
        found = [getattr(d.traits, trait) for d in lesions if d.malignant == malignant]
        return [len(value) if trait == "colours" else value for value in found]

    assert 0.8 < auc(values(True), values(False)) < 0.99


def test_size_place_and_skin_do_not_tell_the_class(lesions):
    def values(measure, malignant):
        return [measure(drawn) for drawn in lesions if drawn.malignant == malignant]

    measures = {
        "area": lambda drawn: drawn.mask.mean(),
        "row": lambda drawn: np.nonzero(drawn.mask)[0].mean(),
        "skin": lambda drawn: np.median(drawn.image[~drawn.mask]),
        "corners": lambda drawn: drawn.image[:8, :8].mean(),
        "detail": lambda drawn: cv2.Laplacian(drawn.image[:, :, 1], cv2.CV_32F)[~drawn.mask].std(),
    }
    for name, measure in measures.items():
        # 80 against 80 without any difference: standard error 0.046
        assert abs(auc(values(measure, True), values(measure, False)) - 0.5) < 0.14, name


@pytest.mark.parametrize("bad", [{"shape": (20, 300)}, {"tone": 1.5}])
def test_impossible_drawing_is_refused(bad):
    with pytest.raises(ConfigError, match="at least 48"):
        draw_lesion(np.random.default_rng(0), malignant=True, **bad)


def test_data_set_has_the_promised_counts_and_files(folder):
    tables = {name: read_table(folder / f"{name}_data.csv") for name in ("train", "test")}
    assert {name: len(table) for name, table in tables.items()} == {"train": 30, "test": 10}
    assert tables["train"].labels().sum() == 12
    assert tables["test"].labels().sum() == 4
    assert all(record.mask_path for table in tables.values() for record in table)
    require_disjoint(tables["train"], tables["test"])


def test_images_and_masks_have_one_size_and_sizes_vary(folder):
    sizes = set()
    for record in read_table(folder / "train_data.csv"):
        image = cv2.imread(str(record.image_path))
        mask = cv2.imread(str(record.mask_path), cv2.IMREAD_UNCHANGED)
        assert mask.shape == image.shape[:2]
        assert set(np.unique(mask)) == {0, 255}
        sizes.add(mask.shape)
    assert len(sizes) > 1


def test_patients_and_lesions_recur_within_a_table(folder):
    with (folder / "train_data.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len({row["patient_id"] for row in rows}) < len({row["lesion_id"] for row in rows}) < 30
    labels = {row["lesion_id"]: row["class"] for row in rows}
    assert all(labels[row["lesion_id"]] == row["class"] for row in rows)


def test_the_configuration_decides_the_files(tmp_path, folder):
    for name, seed in (("same", 3), ("other", 4)):
        config = SyntheticConfig(count_train=30, count_test=10, seed=seed)
        write_synthetic_dataset(tmp_path / name, config)
    for path in sorted(folder.rglob("*.*")):
        place = path.relative_to(folder)
        assert path.read_bytes() == (tmp_path / "same" / place).read_bytes()
        assert path.suffix == ".csv" or (
            path.read_bytes() != (tmp_path / "other" / place).read_bytes()
        )


def test_folder_in_use_is_refused(folder, tmp_path):
    config = SyntheticConfig(count_train=2, count_test=0, masks=False)
    assert write_synthetic_dataset(tmp_path, config).keys() == {"train"}
    assert {path.name for path in tmp_path.iterdir()} == {"images_all", "train_data.csv"}
    with pytest.raises(DataError, match="already holds images_all"):
        write_synthetic_dataset(folder)


@pytest.mark.parametrize("bad", [{"count_train": 0}, {"malignant_fraction": 1.2}, {"seed": -1}])
def test_impossible_configuration_is_refused(bad):
    with pytest.raises(ConfigError):
        SyntheticConfig(**bad)
