"""Tiny fakes of public data sets on disk, in the folder structure they are published in."""

import csv
import io

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


TILES = [
    # isic_id, target, patient, lesion, iddx_1, iddx_2, iddx_3
    ("ISIC_0015670", "0", "IP_1235828", "", "Benign", "", ""),
    ("ISIC_0015845", "0", "IP_1235828", "IL_6727506", "Indeterminate", "Atypical", "AIMP"),
    ("ISIC_0082829", "1", "IP_3249371", "IL_0000001", "Malignant", "Epidermal", "Basal cell"),
    ("ISIC_0096034", "0", "IP_6723298", "", "Benign", "", ""),
]


def jpeg(seed):
    """The bytes of a small JPEG file."""
    pixels = np.random.default_rng(seed).integers(0, 255, (9, 9, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG")
    return file.getvalue()


def isic2024(root, *, files=(), members=()):
    """The download of Kaggle: tiles as files, in ``train-image.hdf5``, or in both."""
    rows = [
        {
            "isic_id": name, "target": target, "patient_id": patient, "age_approx": "60.0",
            "sex": "male", "anatom_site_general": "lower extremity", "tbp_lv_A": "20.2",
            "attribution": "Memorial Sloan Kettering", "copyright_license": "CC-BY",
            "lesion_id": lesion, "iddx_full": "::".join(filter(None, levels)),
            "iddx_1": levels[0], "iddx_2": levels[1], "iddx_3": levels[2], "iddx_4": "",
            "iddx_5": "",
        }
        for name, target, patient, lesion, *levels in TILES
    ]  # fmt: skip
    table(root / "train-metadata.csv", rows)
    text(root / "sample_submission.csv", "isic_id,target", "ISIC_0015657,0.3")
    for number in files:
        path = root / "train-image" / "image" / f"{TILES[number][0]}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(jpeg(number))
    if members:
        import h5py

        with h5py.File(root / "train-image.hdf5", "w") as file:
            for number in members:
                file[TILES[number][0]] = np.void(jpeg(number))


def isic2024_official(root):
    """The download of the challenge's page: three tables to be joined."""
    text(
        root / "ISIC_2024_Training_GroundTruth.csv", "isic_id,malignant",
        *(f"{tile[0]},{tile[1]}.0" for tile in TILES),
    )  # fmt: skip
    text(
        root / "ISIC_2024_Training_Supplement.csv", "isic_id,lesion_id,iddx_1,iddx_2,iddx_3",
        *(f"{name},{','.join(rest)}" for name, _, _, *rest in reversed(TILES)),
    )  # fmt: skip
    folder = root / "ISIC_2024_Training_Input"
    text(
        folder / "metadata.csv", "isic_id,patient_id,age_approx",
        *(f"{tile[0]},{tile[2]},60.0" for tile in TILES),
    )  # fmt: skip
    for tile in TILES:
        picture(folder / f"{tile[0]}.jpg")


def bcn20000(root):
    lines = [
        "bcn_filename,age_approx,anatom_site_general,diagnosis,lesion_id,capture_date,sex,split"
    ]
    for number, code in enumerate(["MEL", "NV", "BCC", "AK", "BKL", "DF", "VASC", "SCC", "NV"]):
        name = f"BCN_000000000{number}.jpg"
        lesion = f"BCN_{number // 2:07d}"
        lines.append(f"{name},55.0,anterior torso,{code},{lesion},2012-05-16,male,train")
        picture(root / "bcn_20k_train" / name)
    text(root / "bcn_20k_train.csv", *lines)
    text(root / "bcn_20k_test.csv", "bcn_filename,age_approx", "BCN_0000000100.jpg,40.0")


MILK10K = [
    "AKIEC", "BCC", "BEN_OTH", "BKL", "DF", "INF", "MAL_OTH", "MEL", "NV", "SCCKA", "VASC",
]  # fmt: skip


def milk10k(root):
    truth, images = [], []
    for number, code in enumerate(MILK10K):
        lesion = f"IL_{number:07d}"
        truth.append({"lesion_id": lesion, **{c: str(float(c == code)) for c in MILK10K}})
        for kind, start in (("clinical: close-up", 1000), ("dermoscopic", 2000)):
            stem = f"ISIC_{start + number:07d}"
            images.append(
                {
                    "lesion_id": lesion, "image_type": kind, "isic_id": stem,
                    "attribution": "MILK study team", "copyright_license": "CC-BY-NC",
                    "image_manipulation": "instrument only", "age_approx": "55", "sex": "female",
                    "skin_tone_class": "3", "site": "trunk", "MONET_hair": "0.1",
                }
            )  # fmt: skip
            picture(root / "MILK10k_Training_Input" / lesion / f"{stem}.jpg")
    table(root / "MILK10k_Training_GroundTruth.csv", truth)
    table(root / "MILK10k_Training_Metadata.csv", images)
    table(root / "MILK10k_Test_Metadata.csv", images[:1])


def pad_ufes_20(root):
    lines = [
        "patient_id,lesion_id,smoke,age,gender,fitspatrick,region,diagnostic,itch,img_id,biopsed"
    ]
    for number, code in enumerate(["BCC", "MEL", "SCC", "ACK", "NEV", "SEK", "NEV"]):
        name = f"PAT_{46 + number // 2}_{881 + number}_{14 + number}.png"
        who = "FEMALE,3.0,NECK" if number % 2 else ",,FACE"
        lines.append(
            f"PAT_{46 + number // 2},{881 + number},,55,{who},{code},True,{name},{number < 3}"
        )
        picture(root / "images" / f"imgs_part_{1 + number % 3}" / name)
    text(root / "metadata.csv", *lines)


DERM7PT = [
    "basal cell carcinoma", "clark nevus", "melanoma (in situ)", "miscellaneous",
    "melanoma (more than 1.5 mm)", "seborrheic keratosis",
]  # fmt: skip


def derm7pt(root):
    root = root / "release_v0"
    lines = [
        "case_num,diagnosis,seven_point_score,pigment_network,streaks,pigmentation,"
        "regression_structures,dots_and_globules,blue_whitish_veil,vascular_structures,"
        "level_of_diagnostic_difficulty,elevation,location,sex,management,clinic,derm,case_id,notes"
    ]
    for number, diagnosis in enumerate(DERM7PT):
        clinic, derm = f"NEL/NEL{2 * number:03d}.JPG", f"NEL/Nel{2 * number + 1:03d}.jpg"
        lines.append(
            f"{number + 1},{diagnosis},3,atypical,absent,absent,absent,irregular,absent,absent,"
            f"medium,palpable,abdomen,female,excision,{clinic},{derm},NEL{number},"
        )
        for name in (clinic, derm):
            picture(root / "images" / name)
    text(root / "meta" / "meta.csv", *lines)
    for part, indexes in (("train", "024"), ("valid", "1"), ("test", "53")):
        text(root / "meta" / f"{part}_indexes.csv", "indexes", *indexes)


def ddi(root):
    diseases = [
        ("56", "True", "melanoma-in-situ"), ("12", "False", "melanocytic-nevi"),
        ("34", "False", "actinic-keratosis"), ("34", "True", "mycosis-fungoides"),
        ("12", "False", "wart"),
    ]  # fmt: skip
    lines = [",DDI_ID,DDI_file,skin_tone,malignant,disease"]  # with the index of pandas
    for number, cells in enumerate(diseases):
        lines.append(f"{number},{number + 1},{number + 1:06d}.png,{','.join(cells)}")
        picture(root / f"{number + 1:06d}.png")
    text(root / "ddi_metadata.csv", *lines)


def fitzpatrick17k(root):
    rows = [
        ("3", "drug induced pigmentary changes", "inflammatory", "non-neoplastic", ""),
        ("6", "kaposi sarcoma", "malignant dermal", "malignant", "1 Diagnostic"),
        ("-1", "dermatofibroma", "benign dermal", "benign", ""),
        ("1", "actinic keratosis", "malignant epidermal", "malignant", ""),
        ("2", "melanoma", "malignant melanoma", "malignant", "3 Wrongly labelled"),
        ("5", "seborrheic keratosis", "benign epidermal", "benign", ""),
    ]
    lines = [
        "md5hash,fitzpatrick_scale,fitzpatrick_centaur,label,nine_partition_label,"
        "three_partition_label,qc,url,url_alphanum"
    ]
    for number, (scale, *rest) in enumerate(rows):
        name = f"{number:032x}"
        lines.append(f"{name},{scale},{scale},{','.join(rest)},https://example.org/a.jpg,a.jpg")
        picture(root / "images" / f"{name}.jpg")
    text(root / "fitzpatrick17k.csv", *lines)


def colours(count, side, seed=0):
    return np.random.default_rng(seed).integers(0, 255, (count, side, side, 3), dtype=np.uint8)


def dermamnist(root, *, name="dermamnist.npz", **changed):
    arrays = {
        "train_images": colours(7, 28, 1), "val_images": colours(2, 28, 2),
        "test_images": colours(3, 28, 3), "train_labels": np.arange(7, dtype=np.uint8)[:, None],
        "val_labels": np.array([[5], [4]], np.uint8),
        "test_labels": np.array([[5], [1], [0]], np.uint8),
    }  # fmt: skip
    root.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(root / name, **{**arrays, **changed})


def siim_arrays(root, *, count=7, side=32):
    isic2020(root / "all")
    root.joinpath("all", "train.csv").rename(root / "train.csv")
    for path in (root / "all" / "jpeg" / "train").iterdir():
        path.unlink()
    np.save(root / f"x_train_{side}.npy", colours(count, side))
    np.save(root / f"x_test_{side}.npy", colours(2, side, 5))
