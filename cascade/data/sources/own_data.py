"""What a user says about data of their own, and what words for classes mean."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields

from cascade.config import check_settings, did_you_mean, setting
from cascade.data.sources.rows import Label, cleaned
from cascade.data.spreadsheet import listed
from cascade.errors import ConfigError, DataError

PLAIN: Mapping[str, Label] = {
    "benign": "benign", "malignant": "malignant", "indeterminate": "indeterminate",
}  # fmt: skip
"""Words for classes that need no explanation."""


@dataclass(frozen=True)
class OwnData:
    """How data of one's own are to be read."""

    malignant: tuple[str, ...] = setting(
        (), "classes that are malignant, where they are not called so; all others are benign"
    )
    table: str | None = setting(None, "table of the images, if there are several")
    image_column: str | None = setting(None, "table: column that names the images")
    class_column: str | None = setting(None, "table: column of the classes")
    patient_column: str | None = setting(None, "table: column of the patients")
    lesion_column: str | None = setting(None, "table: column of the lesions")
    mask_column: str | None = setting(None, "table: column of masks as run lengths")
    masks: str | None = setting(None, "folder of masks, or COCO or Label Studio JSON")

    def __post_init__(self) -> None:
        check_settings(self)

    def given(self) -> list[str]:
        """Names of the choices that are not left to the program."""
        return [item.name for item in fields(self) if getattr(self, item.name) != item.default]


def class_key(word: str) -> str:
    """A class as it is compared: ``Malignant`` is ``malignant``; ``1.0`` and ``1,0`` are ``1``."""
    word = word.strip().casefold()
    return re.sub(r"(?<=\d)[.,]0+$", "", word)


def class_meaning(
    words: Iterable[str], malignant: Sequence[str], *, place: str
) -> dict[str, Label]:
    """What each class means, by its key.

    Args:
        words: the classes that occur.
        malignant: those that the user calls malignant; then all that are not plain are benign.
        place: where the classes come from, for messages.

    Returns:
        Meanings of all keys: those of plain words, ``unknown`` for words such as ``nan``.

    Raises:
        DataError: a class is not plain and ``malignant`` is empty, or one of ``malignant`` does not
            occur.
        ConfigError: benign is called malignant.
    """
    found = {class_key(word): word.strip() for word in words}
    meaning: dict[str, Label] = {}
    for key in found:
        if key in PLAIN or not cleaned(key):
            meaning[key] = PLAIN.get(key, "unknown")
    chosen = {class_key(word): word for word in malignant}
    if "benign" in chosen:
        raise ConfigError("--malignant benign: benign is the other class")
    absent = [word for key, word in chosen.items() if key not in found]
    if absent:
        near = did_you_mean(absent[0], found.values())
        raise DataError(
            f"{place}: no class is named {listed(absent)}{near}; "
            f"there are {listed(sorted(found.values()))}"
        )
    others = sorted(word for key, word in found.items() if key not in meaning)
    if others and not chosen:
        raise DataError(
            f"{place}: {listed(others)} {'is' if len(others) == 1 else 'are'} neither benign nor "
            "malignant; name the malignant ones with --malignant, all others are then benign"
        )
    for key in found:
        if key in chosen:
            meaning[key] = "malignant"
        meaning.setdefault(key, "benign")
    return meaning


def told(words: Iterable[str], meaning: Mapping[str, Label]) -> str:
    """The classes in words: ``malignant: mel; benign: df, nv``."""
    by_label: dict[str, set[str]] = {}
    for word in words:
        label = meaning[class_key(word)]
        name = {"unknown": "left out", "indeterminate": "indeterminate"}.get(label, label)
        by_label.setdefault(name, set()).add(word.strip() or "(empty)")
    order = ("malignant", "benign", "indeterminate", "left out")
    parts = [f"{name}: {listed(sorted(by_label[name]))}" for name in order if name in by_label]
    return "; ".join(parts)
