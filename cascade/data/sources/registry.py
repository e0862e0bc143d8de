"""The data sets that can be read, by the word on the command line."""

from __future__ import annotations

from cascade.config import did_you_mean
from cascade.data.sources.isic2020 import ISIC_2020
from cascade.data.sources.isic_challenges import ISIC_2016, ISIC_2017, ISIC_2018_TASK1
from cascade.data.sources.isic_client import ISIC_CLIENT
from cascade.data.sources.isic_one_hot import HAM10000, ISIC_2019
from cascade.data.sources.ph2 import PH2
from cascade.data.sources.rows import Source
from cascade.errors import ConfigError

SOURCES: dict[str, Source] = {
    source.name: source
    for source in (
        ISIC_2016,
        ISIC_2017,
        ISIC_2018_TASK1,
        HAM10000,
        ISIC_2019,
        ISIC_2020,
        PH2,
        ISIC_CLIENT,
    )
}


def source_named(name: str) -> Source:
    """Look a source up by name or alias.

    Raises:
        ConfigError: there is none; the nearest names are given.
    """
    for source in SOURCES.values():
        if name in (source.name, *source.aliases):
            return source
    known = [word for source in SOURCES.values() for word in (source.name, *source.aliases)]
    raise ConfigError(
        f"source {name!r} is not known{did_you_mean(name, known)}; choose from {', '.join(known)}"
    )
