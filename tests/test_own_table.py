"""Any table beside a folder of images becomes a data set in one command."""

import csv
import io
import sys

import layouts
import numpy as np
import pytest
import spreadsheets
from hypothesis import given
from hypothesis import strategies as st

from cascade.commands.datasets.prepare import main
from cascade.data.sources.own_data import OwnData
from cascade.data.sources.prepare import PrepareConfig, prepare
from cascade.data.sources.table_files import cell_text, read_any_sheet
from cascade.data.tables import read_table
from cascade.errors import DataError, MissingExtraError

pytest.importorskip("python_calamine")
arrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")

ROWS = [
    ["file", "dx", "Patient", "age"],
    ["a.jpg", "mel", "7", "45,5"],
    ["B", "nv", "7", "30"],
    ["sub/c.jpg", "nv", "8", "61"],
    ["0012", "mel", "9", ""],
]
TABLES = {
    "comma.csv": (",", "utf-8"), "excel.csv": (";", "utf-8-sig"), "tabs.tsv": ("\t", "utf-8"),
    "unicode.txt": ("\t", "utf-16"), "bars.csv": ("|", "utf-16"),
}  # fmt: skip


def images(root):
    for name in ("a.jpg", "b.PNG", "sub/C.JPG", "0012.jpg"):
        layouts.picture(root / name)


def write(path, rows):
    """Write a table in the format of its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.suffix == ".xlsx":
        spreadsheets.xlsx(path, rows)
    elif path.suffix == ".ods":
        spreadsheets.ods(path, rows)
    elif path.suffix == ".parquet":
        columns = dict(zip(rows[0], zip(*rows[1:], strict=True), strict=True))
        parquet.write_table(arrow.table({key: list(cells) for key, cells in columns.items()}), path)
    else:
        separator, encoding = TABLES.get(path.name, (",", "utf-8"))
        file = io.StringIO(newline="")
        csv.writer(file, delimiter=separator).writerows(rows)
        path.write_bytes(file.getvalue().encode(encoding))


def run(tmp_path, *malignant, test_fraction=0.0, **named):
    choices = OwnData(malignant=malignant, **named)
    config = PrepareConfig(test_fraction=test_fraction, overwrite=True)
    return prepare("table", tmp_path / "in", tmp_path / "out", config, choices=choices)


def result(tmp_path, split="train"):
    with (tmp_path / "out" / f"{split}_data.csv").open() as file:
        return {row["name"]: row for row in csv.DictReader(file)}


@pytest.mark.parametrize("name", [*TABLES, "book.xlsx", "book.ods", "rows.parquet"])
def test_each_format_gives_the_same_data_set(tmp_path, name):
    images(tmp_path / "in")
    write(tmp_path / "in" / name, ROWS)
    summary = run(tmp_path, "mel", table=name)
    rows = result(tmp_path)
    assert {key: row["class"] for key, row in rows.items()} == {
        "a.jpg": "malignant", "b.PNG": "benign", "C.JPG": "benign", "0012.jpg": "malignant",
    }  # fmt: skip
    assert rows["a.jpg"]["patient_id"] == "7"
    assert rows["a.jpg"]["age"] == "45.5", "a decimal comma"
    assert rows["a.jpg"]["diagnosis"] == "mel"
    assert summary.notes == (
        f"{name}: 4 rows, images in the column file",
        "classes in the column dx, malignant: mel; benign: nv",
        "patients in the column Patient",
        "no column of lesions",
    )
    assert len(read_table(tmp_path / "out" / "train_data.csv")) == 4


def test_numbers_of_spreadsheets_become_the_text_that_people_see(tmp_path):
    rows = [["name", "target", "age"], [12, 1, 45.5], [13, 0, 30]]
    spreadsheets.xlsx(tmp_path / "a.xlsx", [], [[], *rows])
    sheet = read_any_sheet(tmp_path / "a.xlsx")
    assert sheet.rows[0] == {"name": "12", "target": "1", "age": "45.5"}
    assert sheet.numbers == (3, 4)
    parquet.write_table(
        arrow.table({"name": ["x"], "id": [None], "flag": [True], "bytes": [b"x"], "rle": [[1]]}),
        tmp_path / "a.parquet",
    )
    sheet = read_any_sheet(tmp_path / "a.parquet")
    assert sheet.rows[0] == {"name": "x", "id": "", "flag": "true", "rle": "[1]"}


def test_spreadsheet_with_two_sheets_or_of_another_format_is_refused(tmp_path):
    spreadsheets.xlsx(tmp_path / "a.xlsx", [["x"], ["1"]], [["y"], ["2"]])
    with pytest.raises(DataError, match="several sheets with rows: Sheet1, Sheet2"):
        read_any_sheet(tmp_path / "a.xlsx")
    for name in ("b.xlsx", "b.ods", "b.parquet"):
        layouts.text(tmp_path / name, "name,class")
        with pytest.raises(DataError, match=f"{name}: is no .* that can be read"):
            read_any_sheet(tmp_path / name)


@pytest.mark.parametrize(
    ("name", "module"), [("a.xlsx", "python_calamine"), ("a.parquet", "pyarrow")]
)
def test_missing_library_is_named_with_its_extra(tmp_path, monkeypatch, name, module):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(MissingExtraError, match=r"cascade\[tables\]"):
        read_any_sheet(tmp_path / name)


@given(st.one_of(st.integers(-(2**53) + 1, 2**53 - 1), st.floats(allow_nan=False)))
def test_numbers_survive_as_text(number):
    assert float(cell_text(float(number))) == float(number)
    assert (
        "." not in cell_text(float(number)) or not float(number).is_integer() or abs(number) > 1e15
    )


def test_plain_classes_need_no_flags_and_the_table_is_found(tmp_path):
    images(tmp_path / "in")
    rows = [["image_id", "fold", "label"], ["a", "1", "Benign"], ["b", "2", "MALIGNANT"]]
    write(tmp_path / "in" / "list.csv", rows)
    summary = run(tmp_path)
    assert {row["class"] for row in result(tmp_path).values()} == {"benign", "malignant"}
    assert result(tmp_path)["a.jpg"]["fold"] == "1", "other columns are kept"
    assert "in no row of the table, left out (2): 0012.jpg, sub/C.JPG" in "".join(summary.warnings)


@pytest.mark.parametrize("values", [("1", "0"), ("1,0", "0,0"), ("True", "False"), ("yes", "no")])
def test_classes_that_are_not_plain_are_listed_until_they_are_explained(tmp_path, values):
    images(tmp_path / "in")
    rows = [["img", "target", "fold"], ["a", values[0], "1"], ["b", values[1], "1"]]
    write(tmp_path / "in" / "excel.csv", rows)
    with pytest.raises(DataError, match=r"target: .*--malignant, or use --without_labels"):
        run(tmp_path)
    run(tmp_path, values[0].upper().replace(",0", ""))
    assert {key: row["class"] for key, row in result(tmp_path).items()} == {
        "a.jpg": "malignant", "b.PNG": "benign",
    }  # fmt: skip


TWO = {
    "image_column": ["first,second,class", "a,b,benign", "b,a,malignant"],
    "class_column": ["img,label,truth", "a,benign,malignant", "b,malignant,benign"],
    "patient_column": ["img,class,patient,subject", "a,benign,1,2", "b,malignant,1,3"],
}
ANSWERS = {"image_column": "second", "class_column": "truth", "patient_column": "subject"}


@pytest.mark.parametrize("flag", TWO)
def test_two_readings_are_an_error_that_names_both_and_a_flag_decides(tmp_path, flag):
    images(tmp_path / "in")
    layouts.text(tmp_path / "in" / "list.csv", *TWO[flag])
    names = [
        n
        for n in TWO[flag][0].split(",")
        if n in ("first", "second", "label", "truth", "patient", "subject")
    ]
    with pytest.raises(
        DataError, match=rf"column {names[0]} or {names[1]}; say which with --{flag}"
    ):
        run(tmp_path)
    run(tmp_path, **{flag: ANSWERS[flag].upper()})
    rows = result(tmp_path)
    expected = "malignant" if flag in ("image_column", "class_column") else "benign"
    assert rows["a.jpg"]["class"] == expected
    assert rows["a.jpg"]["patient_id"] == ("2" if flag == "patient_column" else "")


def test_columns_that_say_the_same_are_one_reading(tmp_path):
    images(tmp_path / "in")
    rows = [["name", "path", "class", "label"], ["a", "in/a.jpg", "benign", "Benign"],
            ["b", "in/b.png", "malignant", "malignant"]]  # fmt: skip
    write(tmp_path / "in" / "list.csv", rows)
    assert run(tmp_path).total == 2


@pytest.mark.parametrize(
    ("flag", "value", "message"),
    [
        ("image_column", "fil", "no such column; did you mean file"),
        ("class_column", "klass", "there is no such column.*found file, dx, Patient, age"),
        ("table", "none.csv", "neither there nor in"),
        ("masks", "none", "--masks none: is neither there"),
    ],
)
def test_a_flag_that_names_nothing_is_refused(tmp_path, flag, value, message):
    images(tmp_path / "in")
    write(tmp_path / "in" / "list.csv", ROWS)
    with pytest.raises(DataError, match=message):
        run(tmp_path, "mel", **{flag: value})


def test_several_tables_or_none_are_named(tmp_path):
    images(tmp_path / "in")
    with pytest.raises(DataError, match="holds no table; name one with --table"):
        run(tmp_path)
    for name in ("one.csv", "two.xlsx"):
        write(tmp_path / "in" / name, ROWS)
    with pytest.raises(DataError, match=r"several tables: one.csv, two.xlsx; name one"):
        run(tmp_path)


@pytest.mark.parametrize(
    "name", ["x/1.jpg", "X/1", "./x/1.JPG", "data\\x\\1.jpg", "/pictures/x/1.jpg", "C:\\x\\1.png"]
)
def test_names_find_their_image_however_they_are_written(tmp_path, name):
    for folder in ("x", "y"):
        layouts.picture(tmp_path / "in" / folder / "1.jpg", seed=ord(folder))
    write(tmp_path / "in" / "list.csv", [["image", "class"], [name, "benign"]])
    run(tmp_path)
    written = (tmp_path / "out" / "images_all" / "1.jpg").read_bytes()
    assert written == (tmp_path / "in" / "x" / "1.jpg").read_bytes()


def test_a_name_that_fits_two_images_names_both(tmp_path):
    for folder in ("x", "y"):
        layouts.picture(tmp_path / "in" / folder / "1.jpg", seed=ord(folder))
    write(tmp_path / "in" / "list.csv", [["image", "class"], ["1.jpg", "benign"]])
    with pytest.raises(DataError, match=r"list.csv row 2: '1.jpg' could be x/1.jpg or y/1.jpg"):
        run(tmp_path)
    rows = [["image", "class"], ["x/1.jpg", "benign"], ["y/1.jpg", "malignant"]]
    write(tmp_path / "in" / "list.csv", rows)
    run(tmp_path)
    assert set(result(tmp_path)) == {"x_1.jpg", "y_1.jpg"}


def test_missing_images_are_listed_and_never_looked_for_elsewhere(tmp_path):
    images(tmp_path / "in")
    layouts.picture(tmp_path / "secret.jpg")
    rows = [["image", "class"], ["a", "benign"], ["../secret.jpg", "benign"]]
    write(tmp_path / "in" / "list.csv", rows)
    with pytest.raises(DataError, match="1 of 2 images are missing: secret"):
        run(tmp_path)


def test_masks_of_another_folder_are_found_and_others_named(tmp_path):
    images(tmp_path / "in")
    write(tmp_path / "in" / "list.csv", ROWS)
    for name in ("a.png", "B_mask.bmp", "sub/c_segmentation.png", "other.png"):
        layouts.outline(tmp_path / "in" / "drawn" / name)
    summary = run(tmp_path, "mel", masks="drawn")
    assert summary.masks == 3
    assert "belong to no image (1): drawn/other.png" in "".join(summary.warnings)
    assert not [text for text in summary.warnings if "no row" in text]


def test_parts_in_a_column_decide_the_tables(tmp_path):
    images(tmp_path / "in")
    parts = ["split", "train", "val", "test", "test"]
    write(
        tmp_path / "in" / "list.csv", [[*row, part] for row, part in zip(ROWS, parts, strict=True)]
    )
    summary = run(tmp_path, "mel")
    assert set(result(tmp_path, "test")) == {"C.JPG", "0012.jpg"}
    assert summary.notes[-1] == "parts in the column split: test (2), train (1), val (1)"


def test_patients_stay_on_one_side(tmp_path):
    rows = [["img", "class", "patient"]]
    for number in range(60):
        layouts.text(tmp_path / "in" / f"{number}.jpg", str(number))
        rows.append([str(number), "malignant" if number % 3 else "benign", str(number // 3)])
    write(tmp_path / "in" / "list.csv", rows)
    run(tmp_path, test_fraction=0.3)
    sides = [{row["patient_id"] for row in result(tmp_path, s).values()} for s in ("train", "test")]
    assert all(sides)
    assert not sides[0] & sides[1]


def test_without_labels_needs_no_classes(tmp_path):
    images(tmp_path / "in")
    write(tmp_path / "in" / "list.csv", [["image", "note"], ["a", "x"], ["b", "y"]])
    config = PrepareConfig(without_labels=True)
    assert prepare("table", tmp_path / "in", tmp_path / "out", config).total == 2
    assert "class" not in result(tmp_path)["a.jpg"]


def test_command_takes_the_flags(tmp_path, capsys):
    images(tmp_path / "in")
    write(tmp_path / "elsewhere" / "book.xlsx", ROWS)
    flags = ["table", "--input", str(tmp_path / "in"), "--output", str(tmp_path / "out")]
    table = str(tmp_path / "elsewhere" / "book.xlsx")
    assert main([*flags, "--table", table, "--image_column", "file", "--malignant", "mel"]) == 0
    out = capsys.readouterr().out
    assert "understood: classes in the column dx, malignant: mel; benign: nv" in out
    assert f"next: cascade check {tmp_path / 'out'}" in out
    assert np.all([row["source"] == "table" for row in result(tmp_path).values()])
