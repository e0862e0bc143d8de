import codecs
import csv
import io
import logging

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.data.grouping import connected
from cascade.data.spreadsheet import parse_sheet
from cascade.data.tables import match_stem, read_csv, read_table
from cascade.errors import DataError


def make_table(folder, text, *, images=(), masks=(), name="train_data.csv"):
    (folder / "images_all").mkdir(exist_ok=True)
    (folder / "masks_all").mkdir(exist_ok=True)
    for file in images:
        (folder / "images_all" / file).parent.mkdir(exist_ok=True)
        (folder / "images_all" / file).write_bytes(b"x")
    for file in masks:
        (folder / "masks_all" / file).write_bytes(b"x")
    path = folder / name
    if isinstance(text, bytes):
        path.write_bytes(text)
    else:
        path.write_text(text, encoding="utf-8", newline="")
    return path


def rows(folder, text, **options):
    return read_table(make_table(folder, text), check_files=False, **options)


@pytest.mark.parametrize(
    "column", ["Patient_ID", "patient id", "PatientId", "lesion-id", "GroupId"]
)
def test_a_column_of_ids_by_another_name_is_refused(tmp_path, column):
    """Its rows would be groups of their own, on both sides of a split."""
    with pytest.raises(DataError, match=f"column '{column}' is not read; call it '[a-z]+_id'"):
        rows(tmp_path, f"name,class,{column}\na,benign,1\nb,malignant,1\n")


def test_another_column_of_ids_may_stand_beside_the_one_that_is_read(tmp_path):
    text = "name,class,patient_id,Patient ID\na,benign,1,A\nb,malignant,1,A\n"
    assert len(set(rows(tmp_path, text).groups())) == 1


def test_reads_names_labels_masks_and_attributes(tmp_path):
    path = make_table(
        tmp_path,
        "name,class,age\na.jpg,benign,50\nb,Malignant ,\n",
        images=["a.jpg", "b.PNG"],
        masks=["a.png", "b_segmentation.png"],
    )
    table = read_table(path)
    assert [record.name for record in table] == ["a.jpg", "b"]
    assert [record.image_path.name for record in table] == ["a.jpg", "b.PNG"]
    assert [record.mask_path.name for record in table] == ["a.png", "b_segmentation.png"]
    assert table.labels().tolist() == [0, 1]
    assert table.labels().dtype == np.int64
    assert table[0].attributes == {"age": "50"}
    assert table.warnings == ()


@pytest.mark.parametrize(
    "data",
    [
        codecs.BOM_UTF8 + b"name,class\r\na,benign\r\n",
        "name,class\na,benign\n".encode("utf-16"),
        b'"name","class"\n\n"a","benign"\n,\n',
        codecs.BOM_UTF8 + b"name;class\r\na;benign\r\n",
        b"name;class;age\na;benign;1,5\n",
        "name\tclass\na\tbenign\n".encode("utf-16"),
        b"name|class\na|benign\n",
        b"sep=;\r\nname;class\r\na;benign\r\n",
        b"name;class;a,b\na;benign;2\n",
        b'name,class,"a;b"\na,benign,2\n',
    ],
    ids=[
        "bom-crlf",
        "utf-16",
        "quotes-blank-rows",
        "excel-semicolons",
        "decimal-comma",
        "tabs",
        "bars",
        "sep-line",
        "comma-in-header",
        "semicolon-in-header",
    ],
)
def test_reads_tables_as_spreadsheets_save_them(tmp_path, data):
    assert rows(tmp_path, data).names() == ["a"]


def test_names_that_look_like_numbers_or_missing_values_stay_text(tmp_path):
    table = rows(tmp_path, "name,class\n0012,benign\nNA,benign\n1e5,malignant\n")
    assert table.names() == ["0012", "NA", "1e5"]


def test_quoted_comma_and_line_break_stay_in_one_cell(tmp_path):
    columns, found = read_csv(make_table(tmp_path, 'name,note\na,"one, two\nthree"\nb,x\n'))
    assert columns == ["name", "note"]
    assert found[0]["note"] == "one, two\nthree"


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "is empty"),
        (b"name,class\n", "no rows"),
        (b"name;class;a,b\na;benign;2,3\n", "separated by commas or semicolons"),
        (b"name;class\na;benign\nb;benign;x\n", "row 3 has 3 cells.*semicolons"),
        (b"sep=;\nname;class\na;benign\nb\n", "row 4 has 1 cells"),
        (b"name,class\na,benign\nb,benign,x\n", "row 3 has 3 cells"),
        (b"name,class,name\na,benign,b\n", "more than one column is named name"),
        (b",name,class\n0,a,benign\n", "column 1 has no name"),
        (b'name,class\na,"benign\n', "row 2 is not valid CSV"),
        (b"name,class\n\xff\xe9,benign\n", "not UTF-8"),
        ("name,class\na,benign\n".encode("utf-16-le"), "zero bytes"),
        (b"Name,Class\na,benign\n", "'name' is missing; found 2 columns: Name, Class"),
        (b"name,clas\na,benign\n", "'class' is missing.*did you mean clas"),
        (b"name\na\n", "found 1 column: name"),
    ],
)
def test_refuses_what_is_not_a_table(tmp_path, data, message):
    with pytest.raises(DataError, match=message) as caught:
        rows(tmp_path, data)
    assert "train_data.csv" in str(caught.value)


def test_refuses_a_missing_file_and_a_folder(tmp_path):
    with pytest.raises(DataError, match="No such file"):
        read_csv(tmp_path / "none.csv")
    with pytest.raises(DataError, match="is a folder"):
        read_csv(tmp_path)


@pytest.mark.parametrize("word", ["yes", "1.0", "indeterminate", "nan", ""])
def test_unknown_class_is_refused_with_its_row_and_the_way_out(tmp_path, word):
    with pytest.raises(DataError, match=rf"{word!r} \(row 3\).*label_map=") as caught:
        rows(tmp_path, f"name,class\na,benign\nb,{word}\nc,malignant\n")
    assert "benign or malignant" in str(caught.value)


def test_label_map_says_what_other_words_mean(tmp_path):
    text = "name,class\na,0\nb,Yes\nc,benign\n"
    table = rows(tmp_path, text, label_map={"0": "benign", "yes": "malignant"})
    assert table.labels().tolist() == [0, 1, 0]
    with pytest.raises(DataError, match="label_map"):
        rows(tmp_path, text, label_map={"0": "harmless"})


def test_table_without_classes_only_when_asked(tmp_path):
    with pytest.raises(DataError, match="'class' is missing"):
        rows(tmp_path, "name,age\na,1\n")
    table = rows(tmp_path, "name,age\na,1\n", require_labels=False)
    assert table[0].label is None
    with pytest.raises(DataError, match="class"):
        table.labels()


@pytest.mark.parametrize(
    "name",
    ["../../etc/passwd", "/etc/passwd", "C:\\x", "%2e%2e/x", "a/../../x", "a\x07", ""],
)
def test_names_cannot_leave_the_image_folder(tmp_path, name):
    with pytest.raises(DataError, match="row 3: name"):
        rows(tmp_path, f"name,class\nok,benign\n{name},benign\n")


def test_folder_in_a_name_that_links_out_of_the_image_folder_is_refused(tmp_path):
    secret = tmp_path / "elsewhere" / "a.jpg"
    secret.parent.mkdir()
    secret.write_bytes(b"x")
    path = make_table(tmp_path, "name,class\nsub/a.jpg,benign\n")
    (tmp_path / "images_all").mkdir(exist_ok=True)
    (tmp_path / "images_all" / "sub").symlink_to(secret.parent)
    with pytest.raises(DataError, match="link"):
        read_table(path)


def test_image_that_its_owner_linked_into_the_folder_is_found(tmp_path):
    original = tmp_path / "original.jpg"
    original.write_bytes(b"x")
    path = make_table(tmp_path, "name,class\na.jpg,benign\n")
    (tmp_path / "images_all").mkdir(exist_ok=True)
    (tmp_path / "images_all" / "a.jpg").symlink_to(original)
    assert read_table(path)[0].image_path.resolve() == original


def test_missing_files_are_listed_together_or_skipped_and_counted(tmp_path):
    text = "name,class\nkept.jpg,benign\n" + "".join(f"i{n}.jpg,benign\n" for n in range(12))
    path = make_table(tmp_path, text, images=["kept.jpg", "i0.png"])
    with pytest.raises(DataError, match=r"12 image files.*i0.jpg.*i9.jpg and 2 more.*i0.png"):
        read_table(path)
    table = read_table(path, skip_missing=True)
    assert table.names() == ["kept.jpg"]
    (tmp_path / "train_data.csv").write_text("name,class\nnone/a.jpg,benign\n")
    with pytest.raises(DataError, match="1 image file is missing"):
        read_table(path, skip_missing=True)
    path = make_table(tmp_path, text)
    assert "12 image files" in table.warnings[0]
    assert len(read_table(path, check_files=False)) == 13


def test_masks_are_required_only_when_asked(tmp_path):
    path = make_table(
        tmp_path, "name,class\na,benign\nb,benign\n", images=["a.jpg", "b.jpg"], masks=["a.png"]
    )
    assert [record.mask_path is None for record in read_table(path)] == [False, True]
    assert read_table(path).with_mask().names() == ["a"]
    with pytest.raises(DataError, match=r"1 mask file is missing.*: b"):
        read_table(path, require_masks=True)
    assert read_table(path, require_masks=True, skip_missing=True).names() == ["a"]


def test_missing_folders_are_named(tmp_path):
    path = make_table(tmp_path, "name,class\na,benign\n", images=["a.jpg"])
    with pytest.raises(DataError, match="pictures"):
        read_table(path, images=tmp_path / "pictures")
    with pytest.raises(DataError, match="outlines"):
        read_table(path, masks=tmp_path / "outlines")


def test_a_name_that_fits_two_files_is_ambiguous(tmp_path):
    path = make_table(tmp_path, "name,class\na,benign\n", images=["a.jpg", "a.png"])
    with pytest.raises(DataError, match=r"a.jpg or a.png"):
        read_table(path)


def test_repeated_rows_are_left_out_with_a_warning(tmp_path, caplog):
    with caplog.at_level(logging.WARNING, logger="cascade"):
        table = rows(tmp_path, "name,class\na.jpg,benign\na.jpg,benign\na,benign\n")
    assert table.names() == ["a.jpg"]
    assert "2 repeated rows left out: 3, 4" in table.warnings[0]
    assert "repeated" in caplog.text


def test_contradicting_rows_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"rows 2 and 4.*benign and malignant"):
        rows(tmp_path, "name,class\na,benign\nb,benign\na,malignant\n")


def test_images_with_one_stem_are_refused(tmp_path):
    with pytest.raises(DataError, match="rename"):
        rows(tmp_path, "name,class\na.jpg,benign\na.png,benign\n")
    with pytest.raises(DataError, match="rename"):
        rows(tmp_path, "name,class\nx/a.jpg,benign\ny/a.jpg,benign\n")


def test_images_are_grouped_by_any_shared_id(tmp_path):
    table = rows(
        tmp_path,
        "name,class,patient_id,lesion_id,group_id\n"
        "a,benign,P2,L1,\nb,benign,P1,L1,\nc,benign,P1,,g\nd,benign,P3,,g\n"
        "e,benign,P4,L1x,P1\nf,benign,P5,P4,\n",
    )
    assert table.groups() == ["patient_id:P1"] * 4 + ["patient_id:P4", "patient_id:P5"]


def test_rows_without_patient_are_their_own_groups_with_a_warning(tmp_path):
    table = rows(
        tmp_path, "name,class,patient_id\na,benign,P1\nb,benign,\nc,benign,nan\nd,benign,NA\n"
    )
    assert len(set(table.groups())) == 4
    assert table.groups()[1] == "name:b"
    assert any("3 of 4 rows have no patient_id" in warning for warning in table.warnings)


@given(
    keys=st.lists(st.sets(st.integers(0, 8), max_size=3), max_size=10),
)
def test_connected_equals_repeated_merging(keys):
    groups = [({index}, set(own)) for index, own in enumerate(keys)]
    merged = True
    while merged:
        merged = False
        for one in groups:
            for other in groups:
                if one is not other and one[1] & other[1]:
                    one[0].update(other[0])
                    one[1].update(other[1])
                    groups = [group for group in groups if group is not other]
                    merged = True
                    break
            if merged:
                break
    assert sorted(connected(keys)) == sorted(sorted(members) for members, _ in groups)


def test_digest_depends_on_content_not_on_order(tmp_path):
    text = "name,class,group_id\n{}a,benign,1\n{}"
    first = rows(tmp_path, text.format("b,malignant,2\n", ""))
    second = rows(tmp_path, text.format("", "b,malignant,2\n"))
    other = rows(tmp_path, text.format("", "b,malignant,3\n"))
    assert first.digest == second.digest != other.digest


def test_subset_keeps_the_order_and_refuses_unknown_names(tmp_path):
    table = rows(tmp_path, "name,class\nc,benign\na,benign\nb,benign\n")
    assert table.subset({"a", "c"}).names() == ["c", "a"]
    with pytest.raises(DataError, match="no row for z"):
        table.subset(["a", "z"])


def test_masks_from_another_folder(tmp_path):
    path = make_table(
        tmp_path, "name,class\na,benign\nb,benign\n", images=["a.jpg", "b.jpg"], masks=["a.png"]
    )
    predicted = tmp_path / "predicted"
    predicted.mkdir()
    (predicted / "a.png").write_bytes(b"x")
    with pytest.raises(DataError, match="1 masks are missing: b"):
        read_table(path).with_masks_from(predicted)
    (predicted / "b.png").write_bytes(b"x")
    table = read_table(path).with_masks_from(predicted)
    assert [record.mask_path.parent for record in table] == [predicted, predicted]
    with pytest.raises(DataError, match="does not exist"):
        table.with_masks_from(tmp_path / "none")


@pytest.mark.parametrize(
    ("name", "stem"),
    [
        ("sub/a_segmentation.png", "a"),
        ("sub/a.JPEG", "a"),
        ("a.b", "a.b"),
        (".png", ".png"),
        ("_segmentation", "_segmentation"),
    ],
)
def test_match_stem(name, stem):
    assert match_stem(name) == stem


CELL = st.text(st.characters(codec="utf-8", exclude_characters="\0\r"), max_size=6)


@given(
    st.sampled_from(",;\t|"),
    st.lists(st.tuples(CELL, CELL, CELL), min_size=1, max_size=5),
    st.sampled_from(["utf-8", "utf-8-sig", "utf-16"]),
)
def test_cells_survive_each_separator_and_encoding(separator, cells, encoding):
    file = io.StringIO(newline="")
    writer = csv.writer(file, delimiter=separator)
    writer.writerow(["name", "class", "note"])
    writer.writerows([f"x{first}", *rest] for first, *rest in cells)
    sheet = parse_sheet(file.getvalue().encode(encoding), "a.csv")
    assert sheet.columns == ("name", "class", "note")
    for row, (first, *rest) in zip(sheet.rows, cells, strict=True):
        assert row["name"] == f"x{first}"
        quoted = [cell for cell in rest if cell.startswith("'")]
        assert quoted or [row["class"], row["note"]] == rest


@pytest.mark.parametrize(
    "file",
    ["a.jpg", "a.JPEG", "a.bmp", "a.tif", "a_mask.png", "a_lesion.bmp", "a_segmentation.jpg"],
)
def test_masks_of_each_usual_format_and_name_are_found(tmp_path, file):
    path = make_table(tmp_path, "name,class\na.jpg,benign\n", images=["a.jpg"], masks=[file])
    table = read_table(path)
    assert table[0].mask_path.name == file
    assert ("1 masks are JPEG" in "".join(table.warnings)) == file.lower().endswith(("jpg", "jpeg"))


def test_two_masks_of_one_image_are_refused(tmp_path):
    masks = ["a_mask.bmp", "a.jpg"]
    path = make_table(tmp_path, "name,class\na,benign\n", images=["a.jpg"], masks=masks)
    with pytest.raises(DataError, match=r"a.jpg or a_mask.bmp"):
        read_table(path)
