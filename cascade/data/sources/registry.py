"""All sources by their names."""

from __future__ import annotations

from cascade.config import did_you_mean
from cascade.data.sources.class_folders import FOLDERS
from cascade.data.sources.own_table import TABLE
from cascade.data.sources.public.arrays import DERMAMNIST, SIIM_ARRAYS
from cascade.data.sources.public.bcn20000 import BCN20000
from cascade.data.sources.public.clinical_images import DDI, FITZPATRICK17K, PAD_UFES_20
from cascade.data.sources.public.derm7pt import DERM7PT
from cascade.data.sources.public.isic_2024 import ISIC_2024
from cascade.data.sources.public.isic_challenges import (
    ISIC_2016,
    ISIC_2017,
    ISIC_2018_TASK1,
    ISIC_2020,
)
from cascade.data.sources.public.isic_client import ISIC_CLIENT
from cascade.data.sources.public.isic_one_hot import HAM10000, ISIC_2019
from cascade.data.sources.public.milk10k import MILK10K
from cascade.data.sources.public.ph2 import PH2
from cascade.data.sources.rows import Source
from cascade.errors import ConfigError

_ALL = (
    ISIC_2016, ISIC_2017, ISIC_2018_TASK1, HAM10000, ISIC_2019, ISIC_2020, ISIC_2024, ISIC_CLIENT,
    BCN20000, MILK10K, DERM7PT, PH2, PAD_UFES_20, DDI, FITZPATRICK17K, DERMAMNIST, SIIM_ARRAYS,
    FOLDERS, TABLE,
)  # fmt: skip
SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
"""The data sets that can be read, by the word on the command line."""


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
