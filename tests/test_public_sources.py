"""Public data sets in the layouts they are downloaded in, drawn small."""

import csv
import re
import shutil
import sys
from collections import Counter

import layouts
import numpy as np
import pytest
from PIL import Image

from cascade.commands.datasets.prepare import build_parser
from cascade.data.sources.packed import ArrayImages, Hdf5Images
from cascade.data.sources.prepare import SOURCES, PrepareConfig, prepare, source_named
from cascade.data.sources.source_files import Layout
from cascade.errors import ConfigError, DataError, MissingExtraError
from cascade.imaging import read_image


def read(name, root):
    return source_named(name).read(Layout(root))


def attribute(table, name):
    return [row.attributes.get(name) for row in table.rows]


def replace_text(path, old, new, count=1):
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, count))


def run(tmp_path, name, **options):
    return prepare(name, tmp_path / "in", tmp_path / "out", PrepareConfig(**options))


def written(tmp_path):
    """All rows of both tables by name, with the table each is in."""
    found = {}
    for split in ("train", "test"):
        path = tmp_path / "out" / f"{split}_data.csv"
        with path.open() as file:
            found |= {row["name"]: {**row, "split": split} for row in csv.DictReader(file)}
    return found


NEW = {
    "bcn20000": ["malignant", "benign", "malignant", "indeterminate", *["benign"] * 3, "malignant",
                 "benign"],
    "milk10k": ["indeterminate", "malignant", *["benign"] * 4, "malignant", "malignant", "benign",
                "malignant", "benign"],
    "pad_ufes_20": [*["malignant"] * 3, "indeterminate", *["benign"] * 3],
    "derm7pt": ["malignant", "benign", "malignant", "unknown", "malignant", "benign"],
    "ddi": ["malignant", "benign", "indeterminate", "malignant", "benign"],
    "fitzpatrick17k": ["unknown", "malignant", "benign", "indeterminate", "unknown", "benign"],
    "dermamnist": ["indeterminate", "malignant", "benign", "benign", "malignant", "benign",
                   "benign", "benign", "malignant", "benign", "malignant", "indeterminate"],
    "siim_arrays": ["benign", "benign", "malignant", "benign", "malignant", "benign",
                    "indeterminate"],
}  # fmt: skip


@pytest.mark.parametrize("name", NEW)
def test_every_row_has_its_class_and_its_image(tmp_path, name):
    getattr(layouts, name)(tmp_path)
    rows = read(name, tmp_path).rows
    assert [row.label for row in rows] == NEW[name]
    assert all(row.image for row in rows)


@pytest.mark.parametrize("name", NEW)
def test_what_is_prepared_can_be_read_and_counts_what_was_left_out(tmp_path, name):
    getattr(layouts, name)(tmp_path / "in")
    summary = run(tmp_path, name, test_fraction=0.5)
    kept = Counter(label for label in NEW[name] if label in ("benign", "malignant"))
    assert sum(map(Counter, summary.counts.values()), Counter()) == kept
    assert sum(summary.excluded.values()) == len(NEW[name]) - sum(kept.values())
    for image in written(tmp_path):
        assert Image.open(tmp_path / "out" / "images_all" / image).mode == "RGB"


FAULTS = {
    # source: table, a diagnosis in it, what it becomes, and the word that no source knows
    "isic2024": ("train-metadata.csv", ",Benign,Benign,", ",Benign,Beningn,", "Beningn"),
    "bcn20000": ("bcn_20k_train.csv", ",MEL,", ",MELA,", "MELA"),
    "pad_ufes_20": ("metadata.csv", ",BCC,", ",BCD,", "BCD"),
    "derm7pt": ("release_v0/meta/meta.csv", "clark nevus", "clarks nevus", "clarks nevus"),
    "ddi": ("ddi_metadata.csv", "True,melanoma", "Perhaps,melanoma", "Perhaps"),
    "fitzpatrick17k": ("fitzpatrick17k.csv", " dermal,benign,", " dermal,fine,", "fine"),
    "siim_arrays": ("train.csv", ",nevus,", ",nevusoid,", "nevusoid"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_unknown_diagnosis_is_named_with_its_row(tmp_path, name):
    getattr(layouts, name)(tmp_path)
    path, old, new, word = FAULTS[name]
    replace_text(tmp_path / path, old, new)
    table = path.rpartition("/")[2]
    with pytest.raises(DataError, match=rf"{table} row \d+: diagnosis '{word}' is not known"):
        read(name, tmp_path)


def test_all_unknown_diagnoses_are_named_in_one_error(tmp_path):
    layouts.pad_ufes_20(tmp_path)
    replace_text(tmp_path / "metadata.csv", ",NEV,", ",NEVUS,", 2)
    replace_text(tmp_path / "metadata.csv", ",MEL,", ",MLE,")
    with pytest.raises(DataError) as caught:
        read("pad_ufes_20", tmp_path)
    message = str(caught.value)
    assert "metadata.csv row 3: diagnosis 'MLE' is not known" in message
    assert "row 6: diagnosis 'NEVUS' (and in 1 more rows) is not known" in message


@pytest.mark.parametrize("name", ["bcn20000", "milk10k", "pad_ufes_20", "derm7pt", "ddi"])
def test_missing_image_is_named_and_can_be_left_out(tmp_path, name):
    getattr(layouts, name)(tmp_path / "in")
    gone = next(row for row in read(name, tmp_path / "in").rows if row.label == "benign")
    gone.image.unlink()
    with pytest.raises(DataError, match=rf"1 of \d+ images are missing: {gone.stem}"):
        run(tmp_path, name)
    summary = run(tmp_path, name, skip_missing=True)
    assert summary.missing == (gone.stem,)


@pytest.mark.parametrize("name", NEW)
def test_another_source_for_the_folder_is_told_by_its_tables(tmp_path, name):
    getattr(layouts, name)(tmp_path)
    with pytest.raises(DataError) as caught:
        read("isic2019", tmp_path)
    message = str(caught.value)
    tables = [path.name for path in Layout(tmp_path).tables()]
    assert "holds no ISIC_2019_Training_GroundTruth.csv, but " in message
    assert tables[0] in message
    assert message.endswith("or another --source")


def test_a_folder_without_any_of_the_images_is_not_told_of_each(tmp_path):
    layouts.bcn20000(tmp_path / "in")
    for path in (tmp_path / "in").rglob("*.jpg"):
        path.unlink()
    with pytest.raises(
        DataError, match=r"none of the \d images, e.g. BCN_\S+, BCN_\S+, BCN_\S+ and"
    ):
        run(tmp_path, "bcn20000")


def test_row_without_a_name_is_named_by_its_place(tmp_path):
    layouts.pad_ufes_20(tmp_path / "in")
    replace_text(tmp_path / "in" / "metadata.csv", "PAT_46_881_14.png", "")
    with pytest.raises(DataError, match=r"images are missing: no name in metadata.csv row 2"):
        run(tmp_path, "pad_ufes_20")


def test_part_that_is_still_packed_is_named(tmp_path):
    layouts.pad_ufes_20(tmp_path / "in")
    part = tmp_path / "in" / "images" / "imgs_part_2"
    shutil.make_archive(str(part), "zip", part)
    shutil.rmtree(part)
    with pytest.raises(DataError, match=r"2 of 6 images are missing: .*unpack .*imgs_part_2.zip"):
        run(tmp_path, "pad_ufes_20")


@pytest.mark.parametrize("name", ["bcn20000", "ddi", "isic2020", "isic2018_task1"])
def test_image_without_a_row_is_named_and_counted(tmp_path, name):
    getattr(layouts, name)(tmp_path / "in")
    layouts.picture(tmp_path / "in" / "more" / "stray.jpg")
    summary = run(tmp_path, name, without_labels=name == "isic2018_task1")
    assert "images that are in no row of the tables, left out (1): more/stray.jpg" in (
        summary.warnings
    )


# ISIC 2024


def test_isic2024_takes_files_first_and_hdf5_members_as_they_are(tmp_path):
    pytest.importorskip("h5py")
    layouts.isic2024(tmp_path / "in", files=[0, 1], members=[0, 2, 3])
    summary = run(tmp_path, "isic2024", test_fraction=0.5)
    assert summary.excluded == {"indeterminate: AIMP": 1}
    rows = written(tmp_path)
    assert {name: row["class"] for name, row in rows.items()} == {
        "ISIC_0015670.jpg": "benign", "ISIC_0082829.jpg": "malignant",
        "ISIC_0096034.jpg": "benign",
    }  # fmt: skip
    for number in (0, 2, 3):
        image = tmp_path / "out" / "images_all" / f"{layouts.TILES[number][0]}.jpg"
        assert image.read_bytes() == layouts.jpeg(number)
    row = rows["ISIC_0082829.jpg"]
    assert row | {
        "patient_id": "IP_3249371", "lesion_id": "IL_0000001", "age": "60.0", "sex": "male",
        "site": "lower extremity", "diagnosis": "Basal cell", "license": "CC-BY",
    } == row  # fmt: skip
    assert "tbp_lv_A" not in row


def test_isic2024_of_files_needs_no_hdf5(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    layouts.isic2024(tmp_path, files=range(4))
    (tmp_path / "train-image.hdf5").write_bytes(b"not read")
    labels = [row.label for row in read("isic2024", tmp_path).rows]
    assert labels == ["benign", "indeterminate", "malignant", "benign"]
    (tmp_path / "train-image" / "image" / "ISIC_0015670.jpg").unlink()
    with pytest.raises(MissingExtraError, match=r"pip install 'cascade\[hdf5\]'"):
        read("isic2024", tmp_path)


def test_isic2024_joins_the_tables_of_the_challenge(tmp_path):
    layouts.isic2024_official(tmp_path)
    table = read("isic2024", tmp_path)
    labels = [row.label for row in table.rows]
    assert labels == ["benign", "indeterminate", "malignant", "benign"]
    assert attribute(table, "patient_id") == [tile[2] for tile in layouts.TILES]
    assert attribute(table, "lesion_id") == [tile[3] for tile in layouts.TILES]
    (tmp_path / "ISIC_2024_Training_Supplement.csv").unlink()
    labels = [row.label for row in read("isic2024", tmp_path).rows]
    assert labels == ["benign", "benign", "malignant", "benign"], "target alone has two classes"


def test_isic2024_row_that_contradicts_itself_is_named(tmp_path):
    layouts.isic2024(tmp_path)
    replace_text(tmp_path / "train-metadata.csv", "ISIC_0082829,1", "ISIC_0082829,0")
    with pytest.raises(DataError, match=r"train-metadata.csv row 4: .*contradict"):
        read("isic2024", tmp_path)


def test_isic2024_names_missing_tiles_and_members_without_a_row(tmp_path):
    h5py = pytest.importorskip("h5py")
    layouts.isic2024(tmp_path / "in", members=[0, 2])
    with h5py.File(tmp_path / "in" / "train-image.hdf5", "a") as file:
        file["ISIC_9999999"] = np.void(layouts.jpeg(9))
    with pytest.raises(DataError, match=r"1 of 3 images are missing: ISIC_0096034"):
        run(tmp_path, "isic2024")
    summary = run(tmp_path, "isic2024", skip_missing=True, test_fraction=0.5)
    told = "images of train-image.hdf5 that are in no row of the tables (1): ISIC_9999999"
    assert told in summary.warnings


def test_hdf5_file_that_is_cut_off_or_holds_something_else_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    layouts.isic2024(tmp_path / "in", members=range(4))
    path = tmp_path / "in" / "train-image.hdf5"
    with h5py.File(path, "a") as file:
        del file["ISIC_0015670"]
        file["ISIC_0015670"] = np.zeros(5)
    with pytest.raises(DataError, match=r"train-image.hdf5: ISIC_0015670 is no JPEG"):
        run(tmp_path, "isic2024")
    assert not (tmp_path / "out").exists()
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(DataError, match=r"train-image.hdf5: is no HDF5 file .*cut off"):
        run(tmp_path, "isic2024")


def test_bytes_of_an_hdf5_member_are_kept_however_they_are_stored(tmp_path):
    h5py = pytest.importorskip("h5py")
    data = layouts.jpeg(1) + b"\0\0"
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["void"] = np.void(data)
        file["numbers"] = np.frombuffer(data, np.uint8)
    with Hdf5Images(tmp_path / "a.hdf5") as images:
        assert images.encoded("void") == images.encoded("numbers") == data
        with pytest.raises(DataError, match="nothing is not stored"):
            images.encoded("nothing")


def test_hdf5_member_that_leads_out_of_the_file_is_refused(tmp_path):
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "other.hdf5", "w") as file:
        file["secret"] = np.void(layouts.jpeg(1))
    (tmp_path / "secret.jpg").write_bytes(layouts.jpeg(1))
    size = len(layouts.jpeg(1))
    with h5py.File(tmp_path / "a.hdf5", "w") as file:
        file["linked"] = h5py.ExternalLink(str(tmp_path / "other.hdf5"), "/secret")
        file["soft"] = h5py.SoftLink("/linked")
        file["group/image"] = np.void(layouts.jpeg(1))
        raw = [(str(tmp_path / "secret.jpg"), 0, size)]
        file.create_dataset("raw", (size,), np.uint8, external=raw)
        file.create_dataset("large", (10**10,), np.uint8, chunks=(10**6,), compression="gzip")
    with Hdf5Images(tmp_path / "a.hdf5") as images:
        for key in ("linked", "soft", "group", "raw", "group/image/x"):
            with pytest.raises(DataError, match=key):
                images.encoded(key)
        with pytest.raises(DataError, match="large has 10000000000 bytes"):
            images.encoded("large")


# BCN20000, MILK10k, derm7pt


def test_bcn20000_keeps_lesions_and_reads_the_archive_as_well(tmp_path):
    layouts.bcn20000(tmp_path / "release")
    table = read("bcn20000", tmp_path / "release")
    assert attribute(table, "lesion_id")[:3] == ["BCN_0000000", "BCN_0000000", "BCN_0000001"]
    assert attribute(table, "diagnosis")[:2] == ["melanoma", "nevus"]
    layouts.picture(tmp_path / "archive" / "ISIC_1.jpg")
    layouts.archive_metadata(
        tmp_path / "archive" / "bcn20000_metadata_2024.csv", ["ISIC_1"], ["Malignant"]
    )
    (row,) = read("bcn20000", tmp_path / "archive").rows
    assert (row.label, row.attributes["lesion_id"]) == ("malignant", "IL_0")


def test_milk10k_takes_the_dermoscopic_image_of_each_lesion(tmp_path):
    layouts.milk10k(tmp_path / "in")
    summary = run(tmp_path, "milk10k", test_fraction=0.5)
    rows = written(tmp_path)
    assert len(rows) == 10
    assert all(name.startswith("ISIC_00020") for name in rows)
    assert rows["ISIC_0002007.jpg"] | {
        "diagnosis": "melanoma", "lesion_id": "IL_0000007", "skin_tone_class": "3", "site": "trunk",
    } == rows["ISIC_0002007.jpg"]  # fmt: skip
    assert summary.notes == ("11 dermoscopic images; 11 clinical close-ups left out",)
    assert not any("in no row" in warning for warning in summary.warnings)


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("IL_0000003,dermoscopic", "IL_0000099,dermoscopic", "lesion IL_0000099 is not known"),
        ("dermoscopic", "dermoscopy", "image_type 'dermoscopy' is not known"),
    ],
)
def test_milk10k_row_of_another_kind_or_lesion_is_named(tmp_path, old, new, words):
    layouts.milk10k(tmp_path)
    replace_text(tmp_path / "MILK10k_Training_Metadata.csv", old, new)
    with pytest.raises(DataError, match=rf"MILK10k_Training_Metadata.csv row \d+: {words}"):
        read("milk10k", tmp_path)


def test_milk10k_lesion_without_a_dermoscopic_image_is_named(tmp_path):
    layouts.milk10k(tmp_path)
    replace_text(
        tmp_path / "MILK10k_Training_Metadata.csv",
        "IL_0000003,dermoscopic", "IL_0000003,clinical: close-up",
    )  # fmt: skip
    table = read("milk10k", tmp_path)
    assert table.warnings == ("lesions without a dermoscopic image (1): IL_0000003",)


def test_milk10k_lesion_of_two_diagnoses_is_named(tmp_path):
    layouts.milk10k(tmp_path)
    replace_text(tmp_path / "MILK10k_Training_GroundTruth.csv", "1.0,0.0", "1.0,1.0")
    with pytest.raises(DataError, match=r"MILK10k_Training_GroundTruth.csv row 2: expected one 1"):
        read("milk10k", tmp_path)


def test_derm7pt_keeps_its_parts_and_the_checklist(tmp_path):
    layouts.derm7pt(tmp_path / "in")
    summary = run(tmp_path, "derm7pt")
    rows = written(tmp_path)
    parts = {name: row["split"] for name, row in rows.items()}
    assert parts == {
        "Nel001.jpg": "train", "Nel003.jpg": "train", "Nel005.jpg": "train",
        "Nel009.jpg": "train", "Nel011.jpg": "test",
    }  # fmt: skip
    row = rows["Nel005.jpg"]
    assert row | {
        "diagnosis": "melanoma (in situ)", "pigment_network": "atypical", "site": "abdomen",
        "lesion_id": "DERM7PT_3", "seven_point_score": "3",
    } == row  # fmt: skip
    assert summary.excluded == {"unknown: miscellaneous": 1}
    assert summary.notes == ("6 dermoscopic images; 6 clinical images left out",)


@pytest.mark.parametrize(
    ("part", "indexes", "words"),
    [
        ("test", ["5", "3", "6"], "index '6' is not one of the 6 rows"),
        ("test", ["5", "3", "0"], "index '0' .*is there twice"),
        ("test", ["5"], "1 rows are in no file of indexes: 3"),
        ("train", ["zero"], "train_indexes.csv row 2: index 'zero'"),
    ],
)
def test_derm7pt_indexes_that_do_not_fit_are_named(tmp_path, part, indexes, words):
    layouts.derm7pt(tmp_path)
    layouts.text(tmp_path / "release_v0" / "meta" / f"{part}_indexes.csv", "indexes", *indexes)
    with pytest.raises(DataError, match=words):
        read("derm7pt", tmp_path)


def test_derm7pt_with_one_file_of_indexes_missing_is_refused(tmp_path):
    layouts.derm7pt(tmp_path)
    meta = tmp_path / "release_v0" / "meta"
    (meta / "test_indexes.csv").unlink()
    with pytest.raises(DataError, match=r"lacks test_indexes.csv"):
        read("derm7pt", tmp_path)
    for part in ("train", "valid"):
        (meta / f"{part}_indexes.csv").unlink()
    assert {row.split for row in read("derm7pt", tmp_path).rows} == {"train"}


# clinical images


def test_pad_ufes_20_keeps_patients_lesions_and_skin_types(tmp_path):
    layouts.pad_ufes_20(tmp_path)
    table = read("pad_ufes_20", tmp_path)
    assert attribute(table, "patient_id")[:3] == ["PAT_46", "PAT_46", "PAT_47"]
    assert attribute(table, "lesion_id")[:2] == ["PAD_881", "PAD_882"]
    assert attribute(table, "skin_type")[:2] == ["", "3"]
    assert attribute(table, "sex")[:2] == ["", "female"]
    assert attribute(table, "site")[:2] == ["face", "neck"]
    assert table.rows[0].image.name == "PAT_46_881_14.png"


def test_ddi_gives_skin_types_in_pairs_and_takes_the_table_of_pandas(tmp_path):
    layouts.ddi(tmp_path)
    table = read("ddi", tmp_path)
    assert attribute(table, "skin_type") == ["5-6", "1-2", "3-4", "3-4", "1-2"]
    assert attribute(table, "diagnosis")[:2] == ["melanoma in situ", "melanocytic nevi"]


def test_fitzpatrick17k_keeps_skin_types_and_leaves_out_what_is_no_neoplasm(tmp_path):
    layouts.fitzpatrick17k(tmp_path / "in")
    table = read("fitzpatrick17k", tmp_path / "in")
    assert attribute(table, "skin_type") == ["3", "6", "", "1", "2", "5"]
    summary = run(tmp_path, "fitzpatrick17k", test_fraction=0.5)
    assert summary.excluded == {
        "unknown: non-neoplastic": 1, "indeterminate: actinic keratosis": 1,
        "unknown: wrongly labelled (`qc`)": 1,
    }  # fmt: skip


# arrays


@pytest.mark.parametrize("name", ["dermamnist.npz", "dermamnist_64.npz"])
def test_dermamnist_is_written_without_loss_and_keeps_its_parts(tmp_path, name):
    layouts.dermamnist(tmp_path / "in", name=name)
    summary = run(tmp_path, "dermamnist")
    rows = written(tmp_path)
    assert Counter(row["split"] for row in rows.values()) == {"train": 8, "test": 2}
    assert rows["dermamnist_train_00004.png"]["diagnosis"] == "melanoma"
    assert rows["dermamnist_val_00001.png"]["split"] == "train"
    for part, seed, place in (("train", 1, 6), ("test", 3, 1)):
        path = tmp_path / "out" / "images_all" / f"dermamnist_{part}_0000{place}.png"
        pixels = read_image(path).pixels  # 28 pixels would be too few for it
        for corner in (pixels[::2, ::2], pixels[1::2, 1::2]):
            assert np.array_equal(
                corner, layouts.colours({"train": 7, "test": 3}[part], 28, seed)[place]
            )
    assert summary.notes[0].startswith("images of 28 x 28 pixels, each pixel repeated 2 x 2 times")


def test_arrays_of_enough_pixels_stay_as_they_are(tmp_path):
    pixels = layouts.colours(2, 33)
    np.save(tmp_path / "x_train_33.npy", pixels)
    with ArrayImages(tmp_path / "x_train_33.npy") as images:
        (tmp_path / "a.png").write_bytes(images.encoded("1"))
    assert np.array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels[1])


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"train_labels": np.full((7, 1), 9, np.uint8)}, r"train_labels\[0\]: diagnosis '9'"),
        ({"val_labels": np.zeros((3, 1), np.uint8)}, r"val_labels holds uint8 .* \(3, 1\)"),
        ({"test_images": np.zeros((3, 28, 28), np.uint8)}, "expected uint8 images"),
        ({"test_images": np.zeros((3, 28, 28, 3), np.float32)}, "holds float32"),
        ({"test_images": np.zeros((3, 0, 28, 3), np.uint8)}, r"shape \(3, 0, 28, 3\)"),
        ({"test_labels": np.array([None] * 3)}, "test_labels holds object"),
        ({"test_labels": np.zeros(3)}, "test_labels holds float64 .* expected a whole number"),
        ({"test_labels": np.zeros(9**7, np.int8)}, r"shape \(4782969,\)"),
    ],
)
def test_dermamnist_with_other_arrays_is_refused(tmp_path, changed, words):
    layouts.dermamnist(tmp_path, **changed)
    with pytest.raises(DataError, match=words):
        read("dermamnist", tmp_path)


def test_dermamnist_that_is_cut_off_incomplete_or_there_twice_is_refused(tmp_path):
    layouts.dermamnist(tmp_path)
    whole = (tmp_path / "dermamnist.npz").read_bytes()
    (tmp_path / "dermamnist.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(DataError, match="damaged or cut off"):
        read("dermamnist", tmp_path)
    np.savez(tmp_path / "dermamnist.npz", train_images=layouts.colours(1, 28))
    with pytest.raises(DataError, match="lacks the array train_labels"):
        read("dermamnist", tmp_path)
    layouts.dermamnist(tmp_path, name="dermamnist_64.npz")
    with pytest.raises(DataError, match="keep one of them"):
        read("dermamnist", tmp_path)


def test_siim_arrays_are_in_the_order_of_the_table(tmp_path):
    layouts.siim_arrays(tmp_path / "in")
    run(tmp_path, "siim_arrays", test_fraction=0.5)
    rows = written(tmp_path)
    assert (
        rows["ISIC_0000002.png"] | {"class": "malignant", "patient_id": "IP_2"}
        == (rows["ISIC_0000002.png"])
    )
    for place in (0, 4):
        image = Image.open(tmp_path / "out" / "images_all" / f"ISIC_000000{place}.png")
        assert np.array_equal(np.asarray(image), layouts.colours(7, 32)[place])


def test_siim_arrays_of_another_length_or_cut_off_are_refused(tmp_path):
    layouts.siim_arrays(tmp_path, count=6)
    with pytest.raises(DataError, match=r"holds 6 images, but train.csv has 7 rows"):
        read("siim_arrays", tmp_path)
    path = tmp_path / "x_train_32.npy"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(DataError, match=r"x_train_32.npy: is cut off, it holds 5 of 6 images"):
        read("siim_arrays", tmp_path)
    path.write_bytes(b"no array")
    with pytest.raises(DataError, match="is no NumPy array"):
        read("siim_arrays", tmp_path)


def test_arrays_of_objects_are_never_unpickled(tmp_path):
    np.save(tmp_path / "x_train_32.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(DataError, match="holds object"):
        ArrayImages(tmp_path / "x_train_32.npy")


def test_an_array_with_columns_first_is_told_so(tmp_path):
    np.save(tmp_path / "x_train_33.npy", np.asfortranarray(layouts.colours(2, 33)))
    with pytest.raises(DataError, match=r"shape \(2, 33, 33, 3\), columns first; .* rows first"):
        ArrayImages(tmp_path / "x_train_33.npy")


@pytest.mark.parametrize("side", [10_000, 2**33])
def test_an_array_of_huge_images_is_refused_by_its_header(tmp_path, side):
    path = tmp_path / "x_train_32.npy"
    about = {"descr": "|u1", "fortran_order": False, "shape": (2, side, side, 3)}
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(file, about)
        file.truncate(min(2 * 3 * side * side, 2**40))  # takes no room on the disk
    with pytest.raises(DataError, match=rf"images of {side} x {side} pixels; the limit is 50"):
        ArrayImages(path)


@pytest.mark.parametrize("link", ["hardlink", "symlink"])
def test_images_within_a_file_cannot_be_linked(tmp_path, link):
    layouts.dermamnist(tmp_path / "in")
    with pytest.raises(ConfigError, match=rf"--link {link}: the images are inside dermamnist.npz"):
        run(tmp_path, "dermamnist", link=link)
    assert not (tmp_path / "out").exists()


def test_images_within_a_file_within_an_archive_are_read(tmp_path):
    layouts.dermamnist(tmp_path / "in")
    shutil.make_archive(str(tmp_path / "in"), "zip", tmp_path / "in")
    prepare("dermamnist", tmp_path / "in.zip", tmp_path / "out")
    assert len(written(tmp_path)) == 10


def test_help_names_every_source():
    words = re.findall(r"\w+", build_parser().format_help())
    assert {source.name for source in SOURCES.values()} <= set(words)
