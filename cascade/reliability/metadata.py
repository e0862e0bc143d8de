"""What may be known of a lesion beside its image: age and sex of the person, site on the body.

All of it is optional. Words are those of the ISIC archive; those of HAM10000, BCN20000, derm7pt,
PAD-UFES-20 and MILK10k mean the same sites.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Self

from cascade.config import did_you_mean
from cascade.errors import ConfigError

FIELDS = ("age", "sex", "site")
"""Names of the flags, columns of tables and attributes."""

BLANK = frozenset({"", "nan", "na", "n/a", "none", "null", "unknown"})
"""What stands in a cell where nothing is known, in small letters."""

OLDEST = 120.0
_SEXES = {"female": ("f", "woman"), "male": ("m", "man")}
_SITES = {
    "head/neck": (
        "head", "neck", "head neck", "head and neck", "face", "scalp", "ear", "nose", "lip",
        "head neck face",
    ),
    "upper extremity": (
        "arm", "forearm", "hand", "upper limb", "upper limbs", "upper extremities",
    ),
    "lower extremity": (
        "leg", "thigh", "foot", "lower limb", "lower limbs", "lower extremities",
    ),
    "anterior torso": ("chest", "abdomen", "anterior trunk"),
    "posterior torso": ("back", "buttocks", "posterior trunk"),
    "lateral torso": ("flank", "lateral trunk"),
    "torso": ("trunk",),
    "palms/soles": ("acral", "palm", "palms", "sole", "soles", "palms and soles"),
    "oral/genital": (
        "oral", "genital", "genital areas", "oral and genital", "mouth", "oral or genital",
    ),
}  # fmt: skip
SEXES, SITES = tuple(_SEXES), tuple(_SITES)

_WORDS = {
    "sex": {word: name for name, others in _SEXES.items() for word in (name, *others)},
    "site": {word: name for name, others in _SITES.items() for word in (name, *others)},
}


def _is_blank(value: Any) -> bool:
    if isinstance(value, str):
        return value.strip().lower() in BLANK
    return value is None or (isinstance(value, float) and math.isnan(value))


def _age(value: Any) -> float | None:
    if _is_blank(value):
        return None
    try:
        years = math.nan if isinstance(value, bool) else float(value)
    except (TypeError, ValueError):
        years = math.nan
    if not 0 <= years <= OLDEST:
        raise ConfigError(
            f"age is {value!r}; give years from 0 to {OLDEST:.0f}, or leave it blank where it is "
            "not known"
        )
    return years


def _word(name: str, value: Any) -> str | None:
    if _is_blank(value):
        return None
    words = _WORDS[name]
    plain = " ".join(str(value).lower().replace("_", " ").replace("/", " / ").split())
    plain = plain.replace(" / ", "/")
    if plain not in words:
        choices = ", ".join(dict.fromkeys(words.values()))
        raise ConfigError(
            f"{name} is {value!r}; choose from {choices}, or leave it blank where it is not known"
            f"{did_you_mean(plain, words)}"
        )
    return words[plain]


@dataclass(frozen=True)
class Metadata:
    """Age, sex and site, each ``None`` where it is not known.

    Attributes:
        age: of the person, in years within [0, 120]; text such as ``"55"`` becomes a number.
        sex: ``female`` or ``male``.
        site: where the lesion is, one of :data:`SITES`; other usual words, such as ``back``, become
            one of them.

    Raises:
        ConfigError: a value is none of these.
    """

    age: float | None = None
    sex: str | None = None
    site: str | None = None

    def __post_init__(self) -> None:
        object.__setattr__(self, "age", _age(self.age))
        for name in ("sex", "site"):
            object.__setattr__(self, name, _word(name, getattr(self, name)))

    @classmethod
    def of(cls, cells: Mapping[str, Any]) -> Self:
        """What the cells or flags of these names say; others are not looked at.

        Raises:
            ConfigError: a value is not one that it may have, or a name is one of these but for
                capitals or spaces, and would be lost.
        """
        for name in cells:
            plain = name.strip().lower()
            if plain in FIELDS and plain not in cells:
                raise ConfigError(f"a column is called {name!r}; only {plain!r} is read, rename it")
        return cls(**{name: cells.get(name) for name in FIELDS})

    def known(self) -> Iterator[str]:
        """The names of what is known."""
        return (name for name in FIELDS if getattr(self, name) is not None)

    def words(self, names: Iterable[str]) -> tuple[str, ...]:
        """Some of it with their values, such as ``age 55``."""
        values = {name: getattr(self, name) for name in names}
        return tuple(
            f"{name} {value:g}" if isinstance(value, float) else f"{name} {value}"
            for name, value in values.items()
        )

    def or_else(self, other: Metadata) -> Metadata:
        """The same, with what is not known taken from another one."""
        own = {name: getattr(self, name) for name in self.known()}
        return Metadata.of({**{name: getattr(other, name) for name in other.known()}, **own})


UNKNOWN = Metadata()
"""Nothing is known."""
