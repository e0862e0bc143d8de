from collections import Counter

import layouts
import pytest

from cascade.data.sources.prepare import SOURCES, source_named
from cascade.data.sources.public.isic_challenges import read_2018_task1
from cascade.data.sources.source_files import Layout
from cascade.errors import DataError


def read(name, root):
    return source_named(name).read(Layout(root))


def by_stem(table):
    return {row.stem: row for row in table.rows}


def labels(table):
    return {row.stem: row.label for row in table.rows}


def replace_text(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize("name", ["isic2016", "isic2017", "ham10000", "isic2020", "ph2"])
def test_every_row_of_a_complete_folder_has_its_image(tmp_path, name):
    getattr(layouts, name)(tmp_path)
    rows = read(name, tmp_path).rows
    assert rows
    assert all(row.image and row.image.stem == row.stem for row in rows)
    if name != "isic2020":
        assert all(row.mask and row.mask.stem.startswith(row.stem + "_") for row in rows)


def test_isic2016_reads_words_and_numbers_and_keeps_its_test_side(tmp_path):
    layouts.isic2016(tmp_path)
    rows = by_stem(read("isic2016", tmp_path))
    found = {stem: (row.label, row.split) for stem, row in rows.items()}
    assert [found[f"ISIC_000000{number}"] for number in range(4)] == [
        ("benign", "train"), ("malignant", "train"), ("benign", "test"), ("malignant", "test"),
    ]  # fmt: skip


def test_isic2017_takes_validation_as_training_and_names_the_diagnosis(tmp_path):
    layouts.isic2017(tmp_path)
    rows = by_stem(read("isic2017", tmp_path))
    assert Counter(row.split for row in rows.values()) == {"train": 6, "test": 3}
    diagnoses = [rows[f"ISIC_000000{i}"].attributes["diagnosis"] for i in range(3)]
    assert diagnoses == ["melanoma", "seborrheic keratosis", "nevus"]
    assert rows["ISIC_0000000"].attributes["age"] == "55"


def test_isic2017_with_both_flags_set_names_the_row(tmp_path):
    layouts.isic2017(tmp_path)
    path = tmp_path / "ISIC-2017_Test_v2_Part3_GroundTruth.csv"
    replace_text(path, "ISIC_0000007,0.0,1.0", "ISIC_0000007,1.0,1.0")
    with pytest.raises(DataError, match=r"Test_v2_Part3_GroundTruth.csv row 3"):
        read("isic2017", tmp_path)


def test_isic2018_task1_takes_classes_from_a_metadata_table(tmp_path):
    layouts.isic2018_task1(tmp_path / "data")
    metadata = tmp_path / "elsewhere.csv"
    stems = [f"ISIC_000000{i}" for i in range(4)]
    layouts.archive_metadata(metadata, stems, ["Benign", "Malignant", "Benign", "Malignant"])
    table = read_2018_task1(Layout(tmp_path / "data"), labels=metadata)
    assert list(labels(table).values()) == ["benign", "malignant", "benign", "malignant", "unknown"]
    assert [row.split for row in table.rows] == ["train"] * 3 + ["test"] * 2


@pytest.mark.parametrize("suffix", [".csv", ".tab", ""])
def test_ham10000_metadata_is_read_in_each_of_its_formats(tmp_path, suffix):
    layouts.ham10000(tmp_path, suffix=suffix)
    rows = read("ham10000", tmp_path).rows
    assert [row.label for row in rows[:4]] == ["malignant"] * 2 + ["indeterminate", "benign"]
    expected = {"lesion_id": "HAM_0000000", "age": "80.0", "sex": "male", "site": "scalp"}
    assert rows[0].attributes == {**expected, "diagnosis": "melanoma"}


def test_isic2018_task3_joins_lesions_and_keeps_its_test_side(tmp_path):
    layouts.isic2018_task3(tmp_path)
    table = read("isic2018_task3", tmp_path)
    assert Counter(row.split for row in table.rows) == {"train": 8, "test": 8}
    assert [row.attributes.get("lesion_id") for row in table.rows][:2] == ["HAM_0", "HAM_1"]
    assert table.warnings == ()
    (tmp_path / "ISIC2018_Task3_Training_LesionGroupings.csv").unlink()
    assert "LesionGroupings.csv is missing" in read("ham10000", tmp_path).warnings[0]


def test_ham10000_metadata_wins_over_the_one_hot_table(tmp_path):
    layouts.ham10000(tmp_path)
    codes = {"ISIC_0024300": "NV"}
    path = tmp_path / "ISIC2018_Task3_Training_GroundTruth.csv"
    layouts.one_hot(path, codes, layouts.TASK3)
    assert labels(read("ham10000", tmp_path))["ISIC_0024300"] == "malignant"


def test_isic2019_maps_each_column(tmp_path):
    layouts.isic2019(tmp_path)
    rows = read("isic2019", tmp_path).rows
    benign = ("nevus", "benign keratosis", "dermatofibroma", "vascular lesion")
    malignant = ("melanoma", "basal cell carcinoma", "squamous cell carcinoma")
    expected = dict.fromkeys(benign, "benign") | dict.fromkeys(malignant, "malignant")
    expected |= {"actinic keratosis": "indeterminate", "none of the others": "unknown"}
    assert {row.attributes["diagnosis"]: row.label for row in rows} == expected
    assert rows[3].attributes["lesion_id"] == "BCN_0000001"


@pytest.mark.parametrize(
    ("old", "new"), [("1.0,0.0,0.0", "0.0,0.0,0.0"), ("1.0,0.0", "1.0,1.0"), ("1.0,", "yes,")]
)
def test_one_hot_row_without_exactly_one_diagnosis_is_named(tmp_path, old, new):
    layouts.isic2019(tmp_path)
    replace_text(tmp_path / "ISIC_2019_Training_GroundTruth.csv", old, new)
    with pytest.raises(
        DataError, match=r"ISIC_2019_Training_GroundTruth.csv row 2: expected one 1"
    ):
        read("isic2019", tmp_path)


def test_isic2020_counts_unbiopsied_images_as_benign(tmp_path):
    layouts.isic2020(tmp_path)
    rows = by_stem(read("isic2020", tmp_path))
    counts = Counter(row.label for row in rows.values())
    assert counts == {"benign": 4, "malignant": 2, "indeterminate": 1}
    assert rows["ISIC_0000000"].attributes["patient_id"] == "IP_0"
    assert rows["ISIC_0000000"].attributes["diagnosis"] == ""


def test_isic2020_duplicates_share_a_group_also_through_others(tmp_path):
    layouts.isic2020(tmp_path)
    pairs = [(0, 1), (2, 3), (1, 3)]
    layouts.table(
        tmp_path / "ISIC_2020_Training_Duplicates.csv",
        [{"image_name_1": f"ISIC_000000{a}", "image_name_2": f"ISIC_000000{b}"} for a, b in pairs],
    )
    groups = [row.attributes["group_id"] for row in read("isic2020", tmp_path).rows]
    assert groups == ["duplicate_ISIC_0000000"] * 4 + [""] * 3


def test_isic2020_row_that_contradicts_itself_is_named(tmp_path):
    layouts.isic2020(tmp_path)
    replace_text(tmp_path / "train.csv", "melanoma,malignant,1", "melanoma,benign,0")
    with pytest.raises(DataError, match=r"train.csv row 4: .* contradict"):
        read("isic2020", tmp_path)


def test_ph2_reads_the_table_drawn_with_bars(tmp_path):
    layouts.ph2(tmp_path)
    table = read("ph2", tmp_path)
    assert list(labels(table)) == ["IMD002", "IMD003", "IMD058", "IMD061"]
    assert list(labels(table).values()) == ["benign"] * 2 + ["malignant"] * 2
    assert table.rows[1].attributes["diagnosis"] == "atypical nevus"


def test_ph2_with_the_spreadsheet_only_asks_for_the_text_file(tmp_path):
    layouts.text(tmp_path / "PH2_dataset.xlsx", "not read")
    with pytest.raises(DataError, match=r"PH2_dataset.txt; it comes in the same archive"):
        read("ph2", tmp_path)


def test_isic_client_reads_three_classes_ids_and_licences(tmp_path):
    layouts.isic_client(tmp_path)
    rows = read("isic_client", tmp_path).rows
    assert [row.label for row in rows[1:6]] == [
        "benign", "malignant", "malignant", "indeterminate", "unknown",
    ]  # fmt: skip
    assert rows[0].attributes == {
        "patient_id": "IP_0", "lesion_id": "IL_0", "sex": "male", "site": "lower extremity",
        "license": "CC-0", "attribution": "Somebody's Clinic", "age": "40", "diagnosis": "Nevus",
    }  # fmt: skip


def test_isic_client_reads_older_downloads(tmp_path):
    layouts.picture(tmp_path / "ISIC_1.jpg")
    layouts.text(
        tmp_path / "metadata.csv",
        "isic_id,benign_malignant,diagnosis",
        "ISIC_1,indeterminate/malignant,AIMP",
    )
    (row,) = read("isic_client", tmp_path).rows
    assert (row.label, row.attributes["diagnosis"]) == ("indeterminate", "AIMP")


@pytest.mark.parametrize(
    ("name", "file", "old", "new"),
    [
        ("isic2016", "ISBI2016_ISIC_Part3_Training_GroundTruth.csv", "malignant", "perhaps"),
        ("ham10000", "HAM10000_metadata.csv", ",bcc,", ",bbc,"),
        ("isic2020", "train.csv", "nevus", "nevusoid"),
        ("ph2", "PH2_dataset.txt", "        2 ||", "        7 ||"),
        ("isic_client", "metadata.csv", "Malignant", "Dangerous"),
    ],
)
def test_unknown_diagnosis_is_an_error_that_names_the_row(tmp_path, name, file, old, new):
    getattr(layouts, name)(tmp_path)
    replace_text(tmp_path / file, old, new)
    with pytest.raises(DataError, match=rf"{file} row \d+: diagnosis .* is not known"):
        read(name, tmp_path)


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_empty_folder_says_what_is_expected_and_names_a_packed_archive(tmp_path, name):
    with pytest.raises(DataError, match="holds no"):
        read(name, tmp_path)
    (tmp_path / "images.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"unpack .*images.zip first"):
        read(name, tmp_path)


def test_archive_or_nothing_as_input_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        Layout(tmp_path / "nowhere")
    (tmp_path / "HAM10000.zip").write_bytes(b"PK")
    with pytest.raises(DataError, match="is an archive; unpack it"):
        Layout(tmp_path / "HAM10000.zip")


def test_missing_columns_are_named_with_those_found(tmp_path):
    layouts.table(tmp_path / "train.csv", [{"image_name": "a", "target": "1"}])
    with pytest.raises(DataError, match=r"lacks the column patient_id, .*found image_name, target"):
        read("isic2020", tmp_path)


def test_two_tables_of_one_name_are_refused(tmp_path):
    layouts.ham10000(tmp_path / "one")
    layouts.ham10000(tmp_path / "two")
    with pytest.raises(DataError, match="keep one of them"):
        read("ham10000", tmp_path)


def test_two_different_images_of_one_name_are_refused(tmp_path):
    layouts.ph2(tmp_path)
    layouts.text(tmp_path / "copy" / "IMD002.bmp", "another picture")
    with pytest.raises(DataError, match="have one name but differ"):
        read("ph2", tmp_path)


def test_linked_folder_is_searched_and_a_loop_is_not_followed(tmp_path):
    layouts.ph2(tmp_path / "store")
    (tmp_path / "input").mkdir()
    (tmp_path / "input" / "linked").symlink_to(tmp_path / "store", target_is_directory=True)
    (tmp_path / "store" / "back").symlink_to(tmp_path / "input", target_is_directory=True)
    assert all(row.image for row in read("ph2", tmp_path / "input").rows)
