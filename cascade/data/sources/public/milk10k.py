"""MILK10k: a clinical close-up and a dermoscopic image of each lesion."""

from __future__ import annotations

from collections.abc import Mapping

from cascade.data.sources.public.isic_one_hot import hot
from cascade.data.sources.rows import (
    Label,
    Source,
    SourceTable,
    attributes,
    classifying,
    found_row,
)
from cascade.data.sources.source_files import Layout, read_columns
from cascade.data.spreadsheet import listed
from cascade.errors import DataError

LABELS: Mapping[str, Label] = {
    "mel": "malignant", "bcc": "malignant", "sccka": "malignant", "mal_oth": "malignant",
    "akiec": "indeterminate", "nv": "benign", "bkl": "benign", "df": "benign", "vasc": "benign",
    "inf": "benign", "ben_oth": "benign",
}  # fmt: skip
DIAGNOSES = {
    "mel": "melanoma", "bcc": "basal cell carcinoma",
    "sccka": "squamous cell carcinoma or keratoacanthoma", "mal_oth": "other malignant",
    "akiec": "actinic keratosis or intraepithelial carcinoma", "nv": "nevus",
    "bkl": "benign keratosis", "df": "dermatofibroma", "vasc": "vascular lesion",
    "inf": "inflammation or infection", "ben_oth": "other benign",
}  # fmt: skip
KINDS = {"dermoscopic": True, "clinical: close-up": False}
"""Values of ``image_type``, and whether such images are taken."""

_COLUMNS = {
    "lesion_id": "lesion_id", "age": "age_approx", "sex": "sex", "site": "site",
    "skin_tone_class": "skin_tone_class", "license": "copyright_license",
    "attribution": "attribution",
}  # fmt: skip


def read_milk10k(layout: Layout) -> SourceTable:
    """Read the training part: the dermoscopic images; the close-ups are left out and counted.

    ``skin_tone_class`` is as in the table, from 0, very dark, to 5, very light. The test part has
    no diagnoses.
    """
    truth = layout.require("MILK10k_Training_GroundTruth.csv")
    images = layout.require("MILK10k_Training_Metadata.csv")
    codes = [code.upper() for code in LABELS]
    sheet = read_columns(truth, "lesion_id", *codes)
    diagnoses = {
        cells["lesion_id"].strip(): (hot(cells, codes, where), where)
        for where, cells in sheet.places()
    }
    table = read_columns(images, "isic_id", "lesion_id", "image_type", optional=_COLUMNS.values())
    rows, others, seen = [], set(), set()
    with classifying(LABELS) as classify:
        for where, cells in table.places():
            stem, lesion = cells["isic_id"].strip(), cells["lesion_id"].strip()
            kind = KINDS.get(cells["image_type"].strip().casefold())
            if kind is None or lesion not in diagnoses:
                what = f"image_type {cells['image_type']!r}" if kind is None else f"lesion {lesion}"
                known = listed(KINDS) if kind is None else f"those of {truth.name}"
                raise DataError(f"{where}: {what} is not known; expected {known}")
            if not kind:
                others.add(stem)
                continue
            seen.add(lesion)
            code, place = diagnoses[lesion]
            own = {**attributes(cells, _COLUMNS), "diagnosis": DIAGNOSES[code.casefold()]}
            rows.append(found_row(layout, stem, classify(code, where=place), where, own))
    bare = sorted(diagnoses.keys() - seen)
    return SourceTable(
        tuple(rows),
        (truth, images),
        notes=(f"{len(rows)} dermoscopic images; {len(others)} clinical close-ups left out",),
        warnings=(f"lesions without a dermoscopic image ({len(bare)}): {listed(bare)}",)
        if bare
        else (),
        left_out=frozenset(others),
    )


MILK10K = Source(
    "milk10k",
    "MILK10k",
    "CC-BY-NC-4.0, per image",
    read_milk10k,
    labels=LABELS,
    names=DIAGNOSES,
    size="5,240 dermoscopic images, one of each lesion",
    ids="lesions",
)
