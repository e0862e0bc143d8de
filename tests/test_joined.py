"""Several data folders as one table."""

import shutil

import pytest

from cascade.command_line.options import load_splits, load_table
from cascade.commands.training.cls_train import build_parser
from cascade.data.joined import join_tables
from cascade.data.splits import make_folds
from cascade.data.tables import read_table
from cascade.errors import ConfigError, DataError


def write_folder(folder, rows, columns="name,class,lesion_id"):
    (folder / "images_all").mkdir(parents=True)
    for row in rows:
        (folder / "images_all" / row.split(",")[0]).write_bytes(b"")
    (folder / "train_data.csv").write_text("\n".join([columns, *rows]) + "\n")
    return folder


@pytest.fixture
def folders(tmp_path):
    first = [f"a{i}.jpg,{'malignant' if i % 3 == 0 else 'benign'},L{i}" for i in range(12)]
    second = [f"b{i}.jpg,{'malignant' if i % 3 == 0 else 'benign'},L{i}" for i in range(12)]
    return write_folder(tmp_path / "first", first), write_folder(tmp_path / "second", second)


def test_records_of_one_lesion_stay_together_across_tables(folders):
    joined = join_tables([read_table(folder / "train_data.csv") for folder in folders])
    assert len(joined) == 24
    group = dict(zip(joined.names(), joined.groups(), strict=True))
    assert all(group[f"a{i}.jpg"] == group[f"b{i}.jpg"] for i in range(12))
    for fold in make_folds(joined, 3, seed=1):
        held_out = {name[1:] for name in fold.validation}
        assert not held_out & {name[1:] for name in fold.train}


def test_one_table_stays_itself(folders):
    table = read_table(folders[0] / "train_data.csv")
    assert join_tables([table]) is table


def test_an_image_in_two_tables_is_refused_by_name(folders, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(folders[0], copy)
    with pytest.raises(DataError, match=r"12 images are in more than one table: a0\.jpg"):
        join_tables([read_table(path / "train_data.csv") for path in (folders[0], copy)])


def test_a_table_without_classes_is_named(folders, tmp_path):
    bare = write_folder(tmp_path / "bare", ["c.jpg"], columns="name")
    tables = [
        read_table(path / "train_data.csv", require_labels=False) for path in (folders[0], bare)
    ]
    with pytest.raises(DataError, match=r"bare.train_data\.csv has no column 'class'"):
        join_tables(tables)


def test_the_command_line_joins_folders_and_asks_for_a_file_of_splits(folders, tmp_path):
    flags = ["--data_path", str(folders[0]), "--more_data", str(folders[1])]
    arguments = build_parser().parse_args(flags)
    table = load_table(arguments)
    assert len(table) == 24
    with pytest.raises(ConfigError, match="--splits FILE is needed"):
        load_splits(arguments, table)
    splits = tmp_path / "splits.json"
    arguments = build_parser().parse_args([*flags, "--splits", str(splits)])
    divided = load_splits(arguments, table)
    assert splits.is_file()
    assert len(divided.train) + len(divided.validation) == 24


def test_the_test_table_of_every_folder_is_kept_apart(folders, tmp_path):
    (folders[1] / "test_data.csv").write_text("name,class,lesion_id\nz.jpg,benign,L3\n")
    flags = ["--data_path", str(folders[0]), "--more_data", str(folders[1]),
             "--splits", str(tmp_path / "splits.json")]  # fmt: skip
    arguments = build_parser().parse_args(flags)
    with pytest.raises(DataError, match=r"L3|a3\.jpg|z\.jpg"):
        load_splits(arguments, load_table(arguments))
