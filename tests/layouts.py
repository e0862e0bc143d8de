"""Tiny fakes of public data sets on disk, in the folder structure they are published in."""

import csv

import numpy as np
from PIL import Image


def picture(path, *, seed=None):
    """Write a small image whose bytes depend on its name."""
    path.parent.mkdir(parents=True, exist_ok=True)
    seed = sum(path.stem.encode()) if seed is None else seed
    pixels = np.random.default_rng(seed).integers(0, 255, (8, 10, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def outline(path, mode="L"):
    """Write a small mask."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.zeros((8, 10), np.uint8)
    pixels[2:6, 3:7] = 255
    Image.fromarray(pixels).convert(mode).save(path)


def text(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(lines) + "\n")


def table(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def isic2016(root):
    for number, label in enumerate(["benign", "malignant", "benign", "malignant"]):
        stem, part = f"ISIC_000000{number}", "Training" if number < 2 else "Test"
        picture(root / f"ISBI2016_ISIC_Part1_{part}_Data" / f"{stem}.jpg")
        picture(root / f"ISBI2016_ISIC_Part3_{part}_Data" / f"{stem}.jpg")
        outline(root / f"ISBI2016_ISIC_Part1_{part}_GroundTruth" / f"{stem}_Segmentation.png")
        path = root / f"ISBI2016_ISIC_Part3_{part}_GroundTruth.csv"
        word = label if part == "Training" else str(float(label == "malignant"))
        path.write_text((path.read_text() if path.exists() else "") + f"{stem},{word}\n")


def isic2017(root):
    for part, start in (("Training", 0), ("Validation", 3), ("Test_v2", 6)):
        rows = []
        for number, (melanoma, keratosis) in enumerate(
            [("1.0", "0.0"), ("0.0", "1.0"), ("0", "0")]
        ):
            stem = f"ISIC_{start + number:07d}"
            rows.append({"image_id": stem, "melanoma": melanoma, "seborrheic_keratosis": keratosis})
            picture(root / f"ISIC-2017_{part}_Data" / f"{stem}.jpg")
            picture(root / f"ISIC-2017_{part}_Data" / f"{stem}_superpixels.png")
            outline(root / f"ISIC-2017_{part}_Part1_GroundTruth" / f"{stem}_segmentation.png")
        table(root / f"ISIC-2017_{part}_Part3_GroundTruth.csv", rows)
    people = [{"image_id": "ISIC_0000000", "age_approximate": "55", "sex": "female"}]
    table(root / "ISIC-2017_Training_Data" / "ISIC-2017_Training_Data_metadata.csv", people)


def isic2018_task1(root):
    for part, numbers in (("Training", (0, 1, 2)), ("Test", (3, 4))):
        for number in numbers:
            stem = f"ISIC_000000{number}"
            picture(root / f"ISIC2018_Task1-2_{part}_Input" / f"{stem}.jpg")
            outline(root / f"ISIC2018_Task1_{part}_GroundTruth" / f"{stem}_segmentation.png")


def archive_metadata(path, stems, diagnoses):
    lines = [
        "isic_id,attribution,copyright_license,age_approx,anatom_site_general,diagnosis_1,"
        "diagnosis_2,diagnosis_3,lesion_id,patient_id,sex"
    ]
    for number, (stem, first) in enumerate(zip(stems, diagnoses, strict=True)):
        licence = "CC-BY" if number % 2 else "CC-0"
        second = f"{first} proliferations" if first else ""
        third = "Nevus" if first == "Benign" else ""
        lines.append(
            f"{stem},Somebody's Clinic,{licence},40,lower extremity,{first},{second},{third},"
            f"IL_{number},IP_{number // 2},male"
        )
    text(path, *lines)


HAM_CODES = ["mel", "bcc", "akiec", "nv", "bkl", "df", "vasc", "nv", "mel", "nv"]


def ham10000(root, *, suffix=".csv"):
    lines = ["lesion_id,image_id,dx,dx_type,age,sex,localization"]
    for number, code in enumerate(HAM_CODES):
        stem = f"ISIC_00243{number:02d}"
        lesion = number // 2 if code == "nv" else number
        lines.append(f"HAM_{lesion:07d},{stem},{code},histo,80.0,male,scalp")
        picture(root / f"HAM10000_images_part_{1 + number % 2}" / f"{stem}.jpg")
        outline(root / "HAM10000_segmentations_lesion_tschandl" / f"{stem}_segmentation.png")
    separator = "\t" if suffix == ".tab" else ","
    text(root / f"HAM10000_metadata{suffix}", *(line.replace(",", separator) for line in lines))


def one_hot(path, codes, columns):
    rows = [
        {"image": stem, **{column: str(float(column == code)) for column in columns}}
        for stem, code in codes.items()
    ]
    table(path, rows)


TASK3 = ["MEL", "NV", "BCC", "AKIEC", "BKL", "DF", "VASC"]


def isic2018_task3(root, *, groupings=True):
    for part, start in (("Training", 0), ("Test", 50)):
        codes = {f"ISIC_00245{start + i:02d}": code for i, code in enumerate([*TASK3, "NV"])}
        folder = root / f"ISIC2018_Task3_{part}_GroundTruth"
        one_hot(folder / f"ISIC2018_Task3_{part}_GroundTruth.csv", codes, TASK3)
        for stem in codes:
            picture(root / f"ISIC2018_Task3_{part}_Input" / f"{stem}.jpg")
        if part == "Training" and groupings:
            lines = [f"{stem},HAM_{number},histopathology" for number, stem in enumerate(codes)]
            path = root / "ISIC2018_Task3_Training_LesionGroupings.csv"
            text(path, "image,lesion_id,diagnosis_confirm_type", *lines)


ISIC_2019 = ["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "UNK"]


def isic2019(root, *, test=True):
    for part, start in (("Training", 0), ("Test", 50))[: 1 + test]:
        codes = {f"ISIC_00700{start + i:02d}": code for i, code in enumerate(ISIC_2019)}
        one_hot(root / f"ISIC_2019_{part}_GroundTruth.csv", codes, ISIC_2019)
        rows = []
        for number, stem in enumerate(codes):
            picture(root / f"ISIC_2019_{part}_Input" / f"{stem}.jpg")
            row = {"image": stem, "age_approx": "55.0", "anatom_site_general": "", "sex": "female"}
            if part == "Training":
                row["lesion_id"] = f"BCN_{number // 2:07d}"
            rows.append(row)
        table(root / f"ISIC_2019_{part}_Metadata.csv", rows)


def isic2020(root):
    diagnoses = ["unknown", "nevus", "melanoma", "lentigo NOS", "melanoma", "unknown"]
    lines = [
        "image_name,patient_id,sex,age_approx,anatom_site_general_challenge,diagnosis,"
        "benign_malignant,target"
    ]
    for number, diagnosis in enumerate([*diagnoses, "atypical melanocytic proliferation"]):
        classes = "malignant,1" if diagnosis == "melanoma" else "benign,0"
        lines.append(f"ISIC_000000{number},IP_{number},female,50,torso,{diagnosis},{classes}")
        picture(root / "jpeg" / "train" / f"ISIC_000000{number}.jpg")
    text(root / "train.csv", *lines)


def ph2(root):
    lines = [
        "|| Name ||  Histological Diagnosis  ||  Clinical Diagnosis  ||  Asymmetry  || Colors ||"
    ]
    for number, code in ((2, 0), (3, 1), (58, 2), (61, 2)):
        stem = f"IMD{number:03d}"
        histology = "Melanoma" if code == 2 else "  "
        lines.append(f"|| {stem} || {histology} ||        {code} || 0 | T | A || 3 4 ||")
        folder = root / "PH2 Dataset images" / stem
        picture(folder / f"{stem}_Dermoscopic_Image" / f"{stem}.bmp")
        outline(folder / f"{stem}_lesion" / f"{stem}_lesion.bmp", mode="1")
        outline(folder / f"{stem}_roi" / f"{stem}_R1_Label4.bmp", mode="1")
    text(root / "PH2_dataset.txt", *lines, "", "Legends:", "  Clinical Diagnosis:", "    0 - x")


def isic_client(root):
    diagnoses = ["Benign", "Benign", "Malignant", "Malignant", "Indeterminate", "", "Benign"]
    stems = [f"ISIC_123456{number}" for number in range(len(diagnoses))]
    for stem in stems:
        picture(root / f"{stem}.jpg")
    archive_metadata(root / "metadata.csv", stems, diagnoses)
    text(root / "attribution.txt", "Somebody's Clinic")
