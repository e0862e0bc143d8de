import json
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.data.splits import (
    load_or_make_splits,
    make_folds,
    make_splits,
    read_splits,
    require_disjoint,
    write_splits,
)
from cascade.data.tables import Record, Table
from cascade.errors import ConfigError, DataError, LeakageError


def table_of(groups, labels=None, *, path="train_data.csv", column="group_id", prefix="i"):
    labels = labels or ["benign"] * len(groups)
    records = []
    for number, (group, label) in enumerate(zip(groups, labels, strict=True)):
        name, own = f"{prefix}{number:04}.jpg", {column: str(group)}
        records.append(Record(name, label, f"{column}:{group}", Path("x"), None, own))
    return Table(Path(path), tuple(records))


def ordinary(count=300):
    labels = ["malignant" if number % 5 == 0 else "benign" for number in range(count)]
    return table_of([number // 2 * 7 % 211 for number in range(count)], labels)


def group_sides(table, splits):
    groups = {record.name: record.group for record in table}
    return [{groups[name] for name in side} for side in (splits.train, splits.validation)]


GROUPS = st.lists(st.integers(0, 12), min_size=2, max_size=40).filter(lambda g: len(set(g)) > 1)


@given(groups=GROUPS, data=st.data(), fraction=st.floats(0.05, 0.95), seed=st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_no_group_is_ever_on_both_sides(groups, data, fraction, seed):
    classes = st.sampled_from(["benign", "malignant"])
    table = table_of(groups, [data.draw(classes) for _ in groups])
    splits = make_splits(table, fraction=fraction, seed=seed)
    train, validation = group_sides(table, splits)
    assert not train & validation
    assert sorted((*splits.train, *splits.validation)) == table.names()
    assert splits.train
    assert splits.validation


@given(groups=GROUPS, count=st.integers(2, 4), seed=st.integers(0, 5))
@settings(max_examples=30, deadline=None)
def test_folds_partition_the_table_by_group(groups, count, seed):
    table = table_of(groups)
    if len(set(groups)) < count:
        with pytest.raises(DataError, match="use fewer folds"):
            make_folds(table, count, seed=seed, both_classes=False)
        return
    folds = make_folds(table, count, seed=seed, both_classes=False)
    assert sorted(name for fold in folds for name in fold.validation) == table.names()
    for fold in folds:
        train, validation = group_sides(table, fold)
        assert not train & validation
        assert train
        assert validation


@pytest.mark.parametrize("fraction", [0.1, 0.5])
def test_fraction_and_class_balance_are_met(fraction):
    table = ordinary()
    splits = make_splits(table, fraction=fraction)
    assert len(splits.validation) / len(table) == pytest.approx(fraction, abs=0.03)
    assert table.subset(splits.validation).labels().mean() == pytest.approx(0.2, abs=0.03)


def test_splits_depend_on_names_and_seed_not_on_the_order_of_rows():
    table = ordinary()
    turned = replace(table, records=tuple(reversed(table.records)))
    assert make_splits(table, seed=3) == make_splits(turned, seed=3)
    assert make_splits(table, seed=3).digest == make_splits(turned, seed=3).digest
    assert make_splits(table, seed=3).digest != make_splits(table, seed=4).digest
    assert [fold.digest for fold in make_folds(table, 3)] == [
        fold.digest for fold in make_folds(turned, 3)
    ]


def test_tables_without_labels_or_with_one_class_can_be_divided(caplog):
    bare = table_of(range(40), [None] * 40)
    assert len(make_splits(bare, fraction=0.25).validation) == 10
    assert len(make_folds(bare, 4)) == 4
    benign = table_of(range(40))
    assert len(make_splits(benign, fraction=0.25).validation) == 10
    assert "no malignant image in validation" in caplog.text


def test_one_patient_only_is_a_clear_error():
    table = table_of(["P"] * 10, column="patient_id")
    with pytest.raises(DataError, match="one group"):
        make_splits(table)
    with pytest.raises(DataError, match="5 folds but only 1 group of"):
        make_folds(table, 5)


def test_folds_without_positives_are_named():
    table = table_of(range(20), ["malignant"] + ["benign"] * 19)
    with pytest.raises(DataError, match=r"fold \d has no malignant image.* 1 group only"):
        make_folds(table, 5)
    assert len(make_folds(table, 5, both_classes=False)) == 5


@pytest.mark.parametrize("fraction", [0, 1, float("nan")])
def test_senseless_shares_are_refused(fraction):
    with pytest.raises(ConfigError, match="fraction"):
        make_splits(ordinary(), fraction=fraction)
    with pytest.raises(ConfigError, match="at least 2"):
        make_folds(ordinary(), 1)


@pytest.mark.parametrize(
    "change",
    [{}, {"extra": 1}, {"train": []}, {"validation": [1]}, {"seed": True}, {"format": 2},
     {"fraction": None}],
)  # fmt: skip
def test_files_of_another_form_are_refused(tmp_path, change):
    path = tmp_path / "splits.json"
    write_splits(path, make_splits(ordinary()))
    assert read_splits(path) == make_splits(ordinary())
    text = path.read_text()
    path.write_text(json.dumps({**json.loads(text), **change}) if change else text[:-20])
    with pytest.raises(DataError, match=r"splits\.json"):
        read_splits(path)


def test_splits_are_made_once_and_then_read(tmp_path, caplog):
    path = tmp_path / "deep" / "splits.json"
    table = ordinary()
    first = load_or_make_splits(table, path, seed=1)
    before = path.read_bytes()
    assert load_or_make_splits(table, path, seed=1) == first
    assert not caplog.records
    assert load_or_make_splits(table, path, seed=2) == first
    assert "used as it is" in caplog.text
    assert path.read_bytes() == before


def test_splits_of_another_table_are_refused(tmp_path):
    path = tmp_path / "splits.json"
    table = ordinary()
    load_or_make_splits(table, path)
    shorter = replace(table, records=table.records[1:])
    with pytest.raises(DataError, match=r"1 names are in one.*i0000.jpg.*--splits FILE"):
        load_or_make_splits(shorter, path)
    relabelled = replace(table, records=(replace(table[0], label="benign"), *table.records[1:]))
    with pytest.raises(DataError, match=r"have changed.*--splits FILE"):
        load_or_make_splits(relabelled, path)


def test_leaking_splits_file_is_refused(tmp_path):
    path = tmp_path / "splits.json"
    table = table_of([1, 1, 2, 2])
    splits = make_splits(table, fraction=0.5)
    swapped = replace(
        splits, train=("i0000.jpg", "i0002.jpg"), validation=("i0001.jpg", "i0003.jpg")
    )
    write_splits(path, swapped)
    with pytest.raises(LeakageError, match="2 groups are in both") as caught:
        load_or_make_splits(table, path)
    assert caught.value.shared == ("group_id:1", "group_id:2")
    write_splits(path, replace(splits, train=("i0000.jpg", *splits.train, *splits.validation)))
    with pytest.raises(LeakageError, match="twice"):
        load_or_make_splits(table, path)


def test_unwritable_place_names_the_flag(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="--splits FILE"):
        load_or_make_splits(ordinary(), tmp_path / "file" / "splits.json")


@pytest.mark.parametrize("column", ["patient_id", "lesion_id", "group_id"])
def test_tables_that_share_an_id_leak(column):
    first = table_of([1, 2], column=column, prefix="a")
    second = table_of([2, 3], column=column, prefix="b", path="test_data.csv")
    with pytest.raises(LeakageError, match=r"train_data.csv and test_data.csv share 1") as caught:
        require_disjoint(first, second)
    assert caught.value.shared == (f"{column}:2",)


def test_shared_ids_count_even_where_a_stronger_id_differs():
    one = Record("a.jpg", "benign", "patient_id:1", Path("x"), None, {"lesion_id": "L"})
    two = Record("b.jpg", "benign", "patient_id:2", Path("x"), None, {"lesion_id": "L"})
    with pytest.raises(LeakageError):
        require_disjoint(Table(Path("x"), (one,)), Table(Path("y"), (two,)))


def test_tables_that_share_an_image_leak_whatever_its_suffix():
    first = table_of([1], prefix="a")
    second = replace(
        table_of([2], path="test_data.csv"),
        records=(replace(first[0], name="a0000_segmentation.png", attributes={}),),
    )
    with pytest.raises(LeakageError, match="name:a0000"):
        require_disjoint(first, second)


def test_missing_ids_are_shared_by_nobody():
    first = table_of(["", "nan"], column="patient_id", prefix="a")
    second = table_of(["nan", "NA"], column="patient_id", prefix="b")
    require_disjoint(first, second)
