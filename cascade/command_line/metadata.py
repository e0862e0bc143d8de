"""What the user of a command knows beside the images: flags for all of them, columns for each."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cascade.command_line.inputs import is_table, table_images
from cascade.command_line.parser import CommandParser
from cascade.errors import ConfigError, DataError
from cascade.reliability import Metadata, MetadataFusion
from cascade.reliability.metadata import FIELDS, OLDEST, SEXES, SITES, UNKNOWN

log = logging.getLogger(__name__)


def add_metadata(parser: CommandParser) -> None:
    """Add the flags of what is known of all images."""
    cells = "; a cell of a table's column of this name counts before it"
    for name, meaning in {
        "age": f"of the person, in years from 0 to {OLDEST:.0f}",
        "sex": " or ".join(SEXES),
        "site": f"of the lesion: {', '.join(SITES)}, or another usual word such as back",
    }.items():
        parser.add_argument(
            f"--{name}",
            type=str,
            default=None,
            help=f"{meaning}; the same for all images, for a cascade with metadata fusion{cells}",
        )


def metadata_flags(arguments: Any) -> Metadata:
    """What the flags say.

    Raises:
        ConfigError: a value is not one that it may have.
    """
    for name in FIELDS:
        try:
            Metadata(**{name: arguments[name]})
        except ConfigError as error:
            raise ConfigError(f"--{error}") from error
    return Metadata.of({name: arguments[name] for name in FIELDS})


def check_cluster_metadata(arguments: Any, model: Path) -> None:
    """Refuse flags that the model cannot use, and say that columns of tables are not.

    Args:
        arguments: parsed flags.
        model: the file or folder of the cascade.

    Raises:
        ConfigError: the flags say something that the cascade cannot use.
    """
    from cascade.models.runtimes import model_document
    from cascade.pipeline.metadata import require_fusion

    described = model_document(model)["stages"].get("safeguards", {}).get("metadata")
    fusion = None if described is None else MetadataFusion.from_dict(described)
    require_fusion(fusion, metadata_flags(arguments))
    local = [item for item in arguments.inputs if "://" not in item]
    if KnownMetadata.of(local, UNKNOWN, fusion).says_something:
        log.warning(
            "warning: --engine ray does not use the columns age, sex and site of tables; only the "
            "flags --age, --sex and --site count"
        )


@dataclass(frozen=True)
class KnownMetadata:
    """What is known of each image.

    Attributes:
        of_all: what the flags say.
        of_images: what tables say, by the path of the image as text.
    """

    of_all: Metadata = UNKNOWN
    of_images: Mapping[str, Metadata] = field(default_factory=dict)

    @classmethod
    def of(
        cls, inputs: Sequence[str], of_all: Metadata, fusion: MetadataFusion | None
    ) -> KnownMetadata:
        """Read the columns ``age``, ``sex`` and ``site`` of the tables among the inputs.

        Args:
            inputs: of a command.
            of_all: what the flags say.
            fusion: of the cascade; without one, tables are not looked at.

        Raises:
            ConfigError: the flags say something that the cascade cannot use.
            DataError: a table is not usable, or a cell is not what it may be.
        """
        from cascade.pipeline.metadata import require_fusion

        require_fusion(fusion, of_all)
        found: dict[str, Metadata] = {}
        if fusion is None:
            return cls(of_all)
        for table in filter(is_table, inputs):
            for image, cells in table_images(Path(table)):
                try:
                    known = Metadata.of(cells)
                except ConfigError as error:
                    raise DataError(f"{table}: row of {image.name}: {error}") from error
                if found.setdefault(str(image), known) != known:
                    raise DataError(
                        f"{table}: {image} has another age, sex or site in another row; remove "
                        "the wrong row"
                    )
        return cls(of_all, found)

    @property
    def says_something(self) -> bool:
        """Whether a table knows anything of an image."""
        return any(known != UNKNOWN for known in self.of_images.values())

    def beside(self, image: Path | str) -> Metadata:
        """What is known of an image."""
        return self.of_images.get(str(image), UNKNOWN).or_else(self.of_all)

    def check_kept(
        self, table: Path, rows: Sequence[Mapping[str, str]], fusion: MetadataFusion | None
    ) -> None:
        """Refuse to go on from rows that were predicted with other metadata.

        Raises:
            ConfigError: something else was known when a row was written.
        """
        for row in rows:
            known = self.beside(row["path"])
            now = "; ".join(known.words(fusion.used(known) if fusion else ()))
            if row["image_probability"] and row["metadata_used"] != now:
                raise ConfigError(
                    f"{table}: {row['name']} was predicted with {row['metadata_used'] or 'nothing'}"
                    f" known beside the image, now it is {now or 'nothing'}; give the same, or "
                    "start anew (--overwrite)"
                )
