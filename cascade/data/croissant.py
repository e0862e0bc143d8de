"""A data set described in Croissant 1.0, JSON-LD for machine learning data (MLCommons)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cascade.data.spreadsheet import read_csv
from cascade.errors import DataError
from cascade.files import file_digest

TABLES = {"train": "train_data.csv", "test": "test_data.csv"}
_OF_CROISSANT = (
    "citeAs", "column", "equivalentProperty", "extract", "field", "fileObject", "fileProperty",
    "fileSet", "format", "includes", "isLiveDataset", "jsonPath", "key", "md5", "parentField",
    "path", "recordSet", "references", "regex", "repeated", "replace", "samplingRate", "separator",
    "source", "subField", "transform",
)  # fmt: skip
_CONTEXT: dict[str, Any] = {
    "@language": "en",
    "@vocab": "https://schema.org/",
    "sc": "https://schema.org/",
    "cr": "http://mlcommons.org/croissant/",
    "rai": "http://mlcommons.org/croissant/RAI/",
    "dct": "http://purl.org/dc/terms/",
    "conformsTo": "dct:conformsTo",
    "data": {"@id": "cr:data", "@type": "@json"},
    "dataType": {"@id": "cr:dataType", "@type": "@vocab"},
    "examples": {"@id": "cr:examples", "@type": "@json"},
    **{name: f"cr:{name}" for name in _OF_CROISSANT},
}
"""The context of Croissant 1.0, word for word; readers compare it."""


def describe_dataset(folder: Path, *, license: str | None = None) -> dict[str, Any]:
    """The description: tables with SHA-256 and their columns as fields, images and masks.

    Args:
        folder: a prepared data set.
        license: its licence, as a name or an address, if it is known.

    Raises:
        DataError: there is neither table, or one cannot be read.
    """
    files: list[dict[str, Any]] = []
    records: list[dict[str, Any]] = []
    for split, name in TABLES.items():
        if (folder / name).is_file():
            files.append(
                {
                    "@type": "cr:FileObject",
                    "@id": name,
                    "name": name,
                    "contentUrl": name,
                    "encodingFormat": "text/csv",
                    "sha256": file_digest(folder / name),
                }
            )
            columns, rows = read_csv(folder / name)
            records.append(_records(split, name, columns, len(rows)))
    if not files:
        raise DataError(f"{folder}: has neither {' nor '.join(TABLES.values())}")
    for name, kind in (("images_all", "image/*"), ("masks_all", "image/png")):
        if (folder / name).is_dir():
            files.append(
                {
                    "@type": "cr:FileSet",
                    "@id": name,
                    "name": name,
                    "encodingFormat": kind,
                    "includes": f"{name}/**",
                }
            )
    about = {} if license is None else {"license": license}
    return {
        "@context": _CONTEXT,
        "@type": "sc:Dataset",
        "conformsTo": "http://mlcommons.org/croissant/1.0",
        "name": folder.resolve().name,
        "description": "Images of single skin lesions with classes, prepared by cascade.",
        **about,
        "distribution": files,
        "recordSet": records,
    }


def _records(split: str, table: str, columns: list[str], count: int) -> dict[str, Any]:
    """One record set; readers take no white space in the name of a field."""
    names: dict[str, str] = {}
    for column in columns:
        name = "_".join(column.split())
        names[column] = name if name not in names.values() else f"{name}_{len(names) + 1}"
    return {
        "@type": "cr:RecordSet",
        "@id": split,
        "name": split,
        "description": f"{count} images of the {split} table.",
        "field": [
            {
                "@type": "cr:Field",
                "@id": f"{split}/{name}",
                "name": column,
                "dataType": "sc:Text",
                "source": {"fileObject": {"@id": table}, "extract": {"column": column}},
            }
            for column, name in names.items()
        ],
    }
