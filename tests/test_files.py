"""Results on disk: whole or not at all, and harmless to open."""

import contextlib
import csv
import errno
import json
import math
import os
import stat

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cascade.data.tables import read_csv
from cascade.errors import CascadeError, DataError
from cascade.files import (
    atomic_folder,
    atomic_path,
    csv_cell,
    csv_line,
    read_json,
    write_csv,
    write_json,
    write_text,
)

cells = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=12)


def leftovers(folder):
    return sorted(item.name for item in folder.iterdir())


def test_the_old_file_is_there_until_the_new_one_is_whole(tmp_path):
    target = tmp_path / "a.txt"
    target.write_text("old")
    with atomic_path(target) as temporary:
        temporary.write_text("ne")
        assert target.read_text() == "old"
        temporary.write_text("new")
    assert target.read_text() == "new"
    assert leftovers(tmp_path) == ["a.txt"]


@pytest.mark.parametrize("error", [ValueError("bad"), KeyboardInterrupt()])
def test_the_old_file_survives_an_error_and_nothing_else_is_left(tmp_path, error):
    target = tmp_path / "a.txt"
    target.write_text("old")

    def fail_half_way():
        with atomic_path(target) as temporary:
            temporary.write_text("half of the ne")
            raise error

    with pytest.raises(type(error)):
        fail_half_way()
    assert target.read_text() == "old"
    assert leftovers(tmp_path) == ["a.txt"]


def test_a_full_disk_is_one_clear_error_and_the_old_file_survives(tmp_path, monkeypatch):
    target = tmp_path / "a.json"
    write_json(target, {"epoch": 1})

    def full(_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"a\.json: could not be written \(No space left"):
        write_json(target, {"epoch": 2})
    assert read_json(target) == {"epoch": 1}
    assert leftovers(tmp_path) == ["a.json"]


def test_the_data_reaches_the_disk_before_the_name_changes(tmp_path, monkeypatch):
    target = tmp_path / "a.txt"
    events = []
    flush = os.fsync

    def recorded(descriptor):
        kind = "folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file"
        events.append((kind, target.exists()))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", recorded)
    write_text(target, "text")
    assert events == [("file", False), ("folder", True)]


@pytest.mark.parametrize("mask", [0o077, 0o022, 0o000])
def test_others_may_read_the_file_whatever_the_umask(tmp_path, mask):
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a.txt", "text")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.txt").stat().st_mode) == 0o644


def test_a_link_stays_a_link_and_its_target_is_replaced(tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "real" / "a.txt").write_text("old")
    (tmp_path / "link.txt").symlink_to(tmp_path / "real" / "a.txt")
    write_text(tmp_path / "link.txt", "new")
    assert (tmp_path / "link.txt").is_symlink()
    assert (tmp_path / "real" / "a.txt").read_text() == "new"


@pytest.mark.parametrize("name", ["ä" * 120 + ".txt", "皮" * 80 + ".txt", "a" * 250 + ".txt"])
def test_long_names_leave_room_for_the_temporary_one(tmp_path, name):
    write_text(tmp_path / name, "text")
    assert leftovers(tmp_path) == [name]


def test_what_is_no_number_becomes_null_at_any_depth(tmp_path):
    document = {
        "a": math.nan,
        "b": [math.inf, {"c": -math.inf, "d": (1.5, math.nan)}],
        "e": np.float32("nan"),
        "f": np.array([1.0, np.nan]),
        7: np.int64(3),
        "g": np.bool_(True),
    }
    write_json(tmp_path / "a.json", document)
    text = (tmp_path / "a.json").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert json.loads(text) == {
        "a": None,
        "b": [None, {"c": None, "d": [1.5, None]}],
        "e": None,
        "f": [1.0, None],
        "7": 3,
        "g": True,
    }


@settings(max_examples=40)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
        max_leaves=8,
    )
)
def test_a_finite_document_comes_back_as_it_was(tmp_path_factory, document):
    path = tmp_path_factory.getbasetemp() / "document.json"
    write_json(path, document)
    restored = json.dumps(read_json(path))
    assert restored == json.dumps(document).replace("-Infinity", "null").replace("Infinity", "null")


def test_a_missing_or_broken_document_is_named(tmp_path):
    with pytest.raises(DataError, match=r"none\.json: cannot be read"):
        read_json(tmp_path / "none.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(DataError, match=r"broken\.json: is not valid JSON"):
        read_json(tmp_path / "broken.json")
    (tmp_path / "binary.json").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(DataError, match=r"binary\.json: is not valid JSON"):
        read_json(tmp_path / "binary.json")


@pytest.mark.parametrize(
    "cell",
    ["=cmd|'/c calc'!A1", "+1+1", "-2+3", "@SUM(A1)", "\t=1+1", "\r=1+1"],
)
def test_no_text_reaches_a_spreadsheet_as_a_formula(tmp_path, cell):
    assert csv_cell(cell) == "'" + cell
    write_csv(tmp_path / "a.csv", ["name", "note"], [{"name": "1.jpg", "note": cell}])
    with (tmp_path / "a.csv").open(newline="", encoding="utf-8") as file:
        _, row = csv.reader(file)
    assert row == ["1.jpg", "'" + cell]
    assert read_csv(tmp_path / "a.csv")[1] == [{"name": "1.jpg", "note": cell}]


def test_cells_of_numbers_and_missing_values():
    assert csv_line([-1, -0.5, np.float64(-2.0), np.int64(-3), True]) == "-1,-0.5,-2,-3,True\n"
    assert csv_line([None, math.nan, math.inf, np.float32("nan"), ""]) == ",,,,\n"
    assert csv_line([1 / 3, np.float32(0.1), 1e-12]) == "0.333333333,0.100000001,1e-12\n"


@settings(max_examples=40)
@given(st.lists(st.tuples(cells, cells), min_size=1, max_size=4))
def test_any_text_comes_back_as_it_was(tmp_path_factory, rows):
    rows = [(f"{number}{name}", note) for number, (name, note) in enumerate(rows)]
    path = tmp_path_factory.getbasetemp() / "cells.csv"
    write_csv(path, ["name", "note"], [{"name": name, "note": note} for name, note in rows])
    assert [(row["name"], row["note"]) for row in read_csv(path)[1]] == rows


@pytest.mark.parametrize("error", [None, KeyboardInterrupt(), DataError("row 3")])
def test_a_new_folder_replaces_the_old_one_with_all_its_files_or_not_at_all(tmp_path, error):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old.txt").write_text("old")

    def write():
        with atomic_folder(tmp_path / "a") as temporary:
            (temporary / "new.txt").write_text("new")
            assert leftovers(tmp_path / "a") == ["old.txt"]
            if error:
                raise error

    with pytest.raises(type(error)) if error else contextlib.nullcontext():
        write()
    assert leftovers(tmp_path) == ["a"]
    assert leftovers(tmp_path / "a") == ["old.txt" if error else "new.txt"]


def test_a_folder_and_its_files_can_be_read_by_everybody(tmp_path):
    with atomic_folder(tmp_path / "a" / "b") as temporary:
        (temporary / "one.txt").write_text("1")
    assert stat.S_IMODE((tmp_path / "a" / "b" / "one.txt").stat().st_mode) == 0o644
    assert stat.S_IMODE((tmp_path / "a" / "b").stat().st_mode) == 0o755


def test_a_place_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(DataError, match=r"file.*cannot write here"):
        write_text(tmp_path / "file" / "a.txt", "text")
    with pytest.raises(CascadeError, match="folder: could not be written"):
        write_text(tmp_path / "folder", "text")
    with (
        pytest.raises(DataError, match="cannot write here"),
        atomic_folder(tmp_path / "file" / "a"),
    ):
        pass
    assert leftovers(tmp_path) == ["file", "folder"]


def test_the_old_folder_comes_back_if_the_new_one_cannot_take_its_place(tmp_path, monkeypatch):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "old.txt").write_text("old")
    rename = type(tmp_path).rename

    def failing(self, target):
        if self.suffix == ".tmp":
            raise OSError(errno.ENOSPC, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(type(tmp_path), "rename", failing)
    with (
        pytest.raises(DataError, match="could not be written"),
        atomic_folder(tmp_path / "a") as temporary,
    ):
        (temporary / "new.txt").write_text("new")
    assert leftovers(tmp_path) == ["a"]
    assert leftovers(tmp_path / "a") == ["old.txt"]
