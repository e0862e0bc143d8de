"""Clinical images: PAD-UFES-20, DDI and Fitzpatrick17k, with the skin type of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from cascade.data.sources.rows import (
    Label,
    Source,
    SourceTable,
    attributes,
    classifying,
    cleaned,
    found_row,
)
from cascade.data.sources.source_files import Layout, read_columns

PAD_LABELS: Mapping[str, Label] = {
    "mel": "malignant", "bcc": "malignant", "scc": "malignant", "bod": "malignant",
    "ack": "indeterminate", "nev": "benign", "sek": "benign",
}  # fmt: skip
PAD_DIAGNOSES = {
    "mel": "melanoma", "bcc": "basal cell carcinoma", "scc": "squamous cell carcinoma",
    "bod": "Bowen's disease", "ack": "actinic keratosis", "nev": "nevus",
    "sek": "seborrheic keratosis",
}  # fmt: skip
_PAD_COLUMNS = {
    "patient_id": "patient_id", "age": "age", "sex": "gender", "site": "region",
    "skin_type": "fitspatrick", "biopsed": "biopsed",
}  # fmt: skip


def read_pad_ufes_20(layout: Layout) -> SourceTable:
    """Read ``metadata.csv`` and the images of the three parts."""
    path = layout.require("metadata.csv")
    sheet = read_columns(
        path, "img_id", "diagnostic", "patient_id", "lesion_id", optional=_PAD_COLUMNS.values()
    )
    rows = []
    with classifying(PAD_LABELS) as classify:
        for where, cells in sheet.places():
            stem, code = PurePosixPath(cells["img_id"].strip()).stem, cells["diagnostic"]
            known = attributes(cells, _PAD_COLUMNS)
            lesion = cleaned(cells["lesion_id"])
            known["lesion_id"] = lesion and f"PAD_{lesion}"
            known["sex"] = known.get("sex", "").lower()
            known["site"] = known.get("site", "").lower()
            known["skin_type"] = known.get("skin_type", "").removesuffix(".0")
            known["diagnosis"] = PAD_DIAGNOSES.get(code.strip().casefold(), code)
            label = classify(code, where=where)
            rows.append(found_row(layout, stem, label, where, known))
    return SourceTable(tuple(rows), (path,))


DDI_LABELS: Mapping[str, Label] = {
    "actinic-keratosis": "indeterminate", "true": "malignant", "false": "benign",
}  # fmt: skip
"""A disease that is between the classes, and values of ``malignant``, which decide for the rest."""

_DDI_TYPES = {"12": "1-2", "34": "3-4", "56": "5-6"}


def read_ddi(layout: Layout) -> SourceTable:
    """Read ``ddi_metadata.csv``; skin types are given in pairs."""
    path = layout.require("ddi_metadata.csv")
    sheet = read_columns(path, "DDI_file", "malignant", "disease", optional=("skin_tone",))
    rows = []
    with classifying(DDI_LABELS) as classify:
        for where, cells in sheet.places():
            stem = PurePosixPath(cells["DDI_file"].strip()).stem
            tone = cleaned(cells.get("skin_tone"))
            known = {
                "diagnosis": cleaned(cells["disease"]).replace("-", " "),
                "skin_type": _DDI_TYPES.get(tone, tone),
            }
            label = classify(cells["disease"], cells["malignant"], where=where)
            rows.append(found_row(layout, stem, label, where, known))
    return SourceTable(tuple(rows), (path,))


FITZPATRICK_LABELS: Mapping[str, Label] = {
    "3 wrongly labelled": "unknown", "actinic keratosis": "indeterminate",
    "malignant": "malignant", "benign": "benign", "non-neoplastic": "unknown",
}  # fmt: skip
"""A value of ``qc``, a label that is between the classes, and ``three_partition_label``."""

FITZPATRICK_NAMES = {"3 wrongly labelled": "wrongly labelled (`qc`)"}
_TYPES = ("fitzpatrick_scale", "fitzpatrick")


def read_fitzpatrick17k(layout: Layout) -> SourceTable:
    """Read ``fitzpatrick17k.csv``; an image is called after its hash.

    Diseases that are no neoplasms are left out, and so are rows that a dermatologist found to be
    labelled wrongly. A skin type of -1 is none.
    """
    path = layout.require("fitzpatrick17k.csv")
    partition = "three_partition_label"
    sheet = read_columns(path, "md5hash", "label", partition, optional=("qc", *_TYPES))
    rows = []
    with classifying(FITZPATRICK_LABELS) as classify:
        for where, cells in sheet.places():
            words = (cells.get("qc", ""), cells["label"], cells[partition])
            skin = next((cleaned(cells[name]) for name in _TYPES if name in cells), "")
            known = {
                "diagnosis": cleaned(cells["label"]),
                "skin_type": "" if skin.startswith("-") else skin.removesuffix(".0"),
            }
            label = classify(*words, where=where)
            row = found_row(layout, cells["md5hash"].strip(), label, where, known)
            rows.append(replace(row, why_not=_why_not(words) if label == "unknown" else ""))
    return SourceTable(tuple(rows), (path,))


def _why_not(words: Sequence[str]) -> str:
    """The first word that leaves a row of Fitzpatrick17k out; its diagnosis does not say why."""
    keys = (word.strip().casefold() for word in words)
    found = next((key for key in keys if FITZPATRICK_LABELS.get(key) == "unknown"), "")
    return FITZPATRICK_NAMES.get(found, found)


PAD_UFES_20 = Source(
    "pad_ufes_20",
    "PAD-UFES-20",
    "CC-BY-4.0",
    read_pad_ufes_20,
    labels=PAD_LABELS,
    names=PAD_DIAGNOSES,
    size="2,298 images taken with telephones, of 1,373 patients",
    ids="patients, lesions",
)
DDI = Source(
    "ddi",
    "Diverse Dermatology Images",
    "for research only, see its terms",
    read_ddi,
    labels=DDI_LABELS,
    names={
        "actinic-keratosis": "actinic keratosis", "true": "diseases marked `malignant`",
        "false": "all others",
    },
    size="656 clinical images",
    classes="78",
)  # fmt: skip
FITZPATRICK17K = Source(
    "fitzpatrick17k",
    "Fitzpatrick17k",
    "CC-BY-NC-SA-3.0",
    read_fitzpatrick17k,
    labels=FITZPATRICK_LABELS,
    names=FITZPATRICK_NAMES,
    size="16,577 clinical images",
    classes="114",
)
