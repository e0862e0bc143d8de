"""Drawn patients with one odd lesion each, and whether the ugly-duckling score finds it."""

from __future__ import annotations

from collections import Counter, defaultdict

import numpy as np
import pytest

from cascade.command_line.main import main as console
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset
from cascade.data.synthetic.dataset import ODD
from cascade.data.tables import read_table
from cascade.errors import ConfigError
from cascade.imaging import read_image, read_mask
from cascade.lesion.measurements import measure
from cascade.lesion.patient import feature_row, ugly_duckling_scores

EACH, PATIENTS = 6, 24
CONFIG = SyntheticConfig(
    count_train=EACH * PATIENTS, count_test=8, lesions_per_patient=EACH, malignant_fraction=0.5,
    sizes=((72, 84), (80, 80)),
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    target = tmp_path_factory.mktemp("patients") / "dataset"
    write_synthetic_dataset(target, CONFIG)
    return target


@pytest.fixture(scope="module")
def patients(folder):
    """For each patient the features of its lesions, and which of them is odd."""
    found = defaultdict(list)
    for record in read_table(folder / "train_data.csv"):
        image = read_image(record.image_path).pixels
        row = feature_row(measure(image, read_mask(record.mask_path, shape=image.shape[:2])))
        found[record.attributes["patient_id"]].append((is_odd(record), row))
    return [
        (np.array([odd for odd, _ in lesions]), np.array([row for _, row in lesions]))
        for lesions in found.values()
    ]


def is_odd(record):
    return record.label == "malignant" or record.attributes["diagnosis"] == ODD


def found_first(patients):
    """Share of patients whose odd lesion has the highest score."""
    return np.mean([odd[np.argmax(ugly_duckling_scores(rows))] for odd, rows in patients])


def test_each_patient_has_so_many_lesions_and_one_is_odd(folder):
    table = read_table(folder / "train_data.csv")
    by_patient = Counter(record.attributes["patient_id"] for record in table)
    assert set(by_patient.values()) == {EACH}
    assert len(by_patient) == PATIENTS
    odd = Counter(record.attributes["patient_id"] for record in table if is_odd(record))
    assert odd == dict.fromkeys(by_patient, 1)
    assert table.labels().sum() == PATIENTS // 2
    assert len({record.attributes["lesion_id"] for record in table}) == len(table)


def test_a_rest_of_lesions_makes_a_last_patient_and_tables_share_none(folder):
    rest = read_table(folder / "test_data.csv")
    assert sorted(Counter(r.attributes["patient_id"] for r in rest).values()) == [2, EACH]
    train = read_table(folder / "train_data.csv")
    assert not set(train.groups()) & set(rest.groups())


def test_the_score_finds_the_odd_lesion_far_more_often_than_chance(patients):
    assert found_first(patients) > 3 / EACH


def test_any_other_lesion_is_found_by_chance(patients):
    """The witness: the same scores, and another lesion of each patient called odd."""
    shares = [np.mean([np.roll(odd, turn)[np.argmax(ugly_duckling_scores(rows))]
                       for odd, rows in patients]) for turn in range(1, EACH)]  # fmt: skip
    assert np.mean(shares) < 1 / EACH


def test_among_lesions_of_other_patients_it_is_lost(patients):
    """The same lesions, dealt to patients at random; malignant ones are odd among any."""
    generator = np.random.default_rng(0)
    odd = np.concatenate([odd for odd, _ in patients])
    rows = np.concatenate([rows for _, rows in patients])
    shares = []
    for _ in range(20):
        order = generator.permutation(len(rows)).reshape(-1, EACH)
        shares.append(found_first([(odd[part], rows[part]) for part in order]))
    assert np.mean(shares) < found_first(patients) - 0.2


def test_the_look_of_a_patient_is_not_that_of_another(patients):
    """Ordinary lesions differ less within a patient than between patients, in mean lightness."""
    light = [rows[~odd, 3] for odd, rows in patients]
    within = np.mean([values.std() for values in light])
    assert within < np.std([values.mean() for values in light]) / 1.5


@pytest.mark.parametrize("few", [1, 2, 3])
def test_fewer_lesions_than_the_score_needs_are_refused(few):
    with pytest.raises(ConfigError, match=f"lesions_per_patient is {few}; give 4 or more"):
        SyntheticConfig(lesions_per_patient=few)


def test_the_command_draws_them(tmp_path, capsys):
    out = tmp_path / "out"
    args = ["--count", "24", "--lesions_per_patient", "5", "--output", str(out)]
    assert console(["prepare", "--source", "synthetic", *args]) == 0
    assert "train:" in capsys.readouterr().out
    tables = [read_table(out / f"{name}_data.csv") for name in ("train", "test")]
    assert sum(sum(map(is_odd, table)) for table in tables) == 5, "4 patients, one of 4 lesions"
    source = ["--source", "folders", "--input", str(out)]
    assert console(["prepare", *source, *args]) == 2
    assert "--lesions_per_patient does not apply" in capsys.readouterr().err
