"""What ``cascade predict`` writes beside its table: masks, overlays and DICOM objects."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cascade.command_line.result_table import ResultTable
from cascade.errors import ConfigError, ImageError
from cascade.files import atomic_path
from cascade.imaging import ImageLimits
from cascade.pipeline.prediction import Prediction
from cascade.pipeline.rows import RowInput

if TYPE_CHECKING:
    from cascade.pipeline import Cascade
    from cascade.pipeline.dicom_results import ModelIdentity

IMAGE_COLUMNS = ("mask", "overlay")
DICOM_COLUMNS = ("dicom_segmentation", "dicom_report")
"""The columns that ``--save_dicom`` adds, each with the files of a folder."""


def check_dicom_flag(arguments: Any) -> None:
    """Refuse ``--save_dicom`` where it cannot work, before anything is read.

    Raises:
        ConfigError: a cluster predicts, which writes tables only.
        MissingExtraError: highdicom is not installed.
    """
    if not arguments.save_dicom:
        return
    if arguments.engine == "ray":
        raise ConfigError("--save_dicom is not for --engine ray, whose results are tables")
    from cascade.pipeline.dicom_results import require_highdicom

    require_highdicom()


def dicom_model(arguments: Any, cascade: Cascade) -> ModelIdentity | None:
    """What DICOM results say of the model, if they were asked for."""
    if not arguments.save_dicom:
        return None
    from cascade.models.runtimes import choose_runtime, model_document
    from cascade.pipeline.dicom_results import ModelIdentity
    from cascade.version import __version__

    path, _ = choose_runtime(arguments.model, arguments.runtime, arguments.device)
    digest = str(model_document(path)["tensors_sha256"])
    return ModelIdentity(__version__, digest, cascade.cutoff)


@dataclass(frozen=True)
class WrittenFiles:
    """Files on disk, under names that never collide.

    Attributes:
        table: whose rows name them.
        masks: write masks.
        overlays: write overlays.
        dicom: the model that DICOM objects name; ``None`` writes none.
    """

    table: ResultTable
    masks: bool
    overlays: bool
    dicom: ModelIdentity | None = None

    def write(self, item: RowInput, prediction: Prediction) -> dict[str, str]:
        """Write what was asked for; returns the files' paths relative to the table's folder."""
        from cascade.evaluation.overlays import overlay
        from cascade.imaging import read_image, write_image, write_mask

        path, written = Path(item.path), {}
        if self.masks:
            target = self.table.free_path("mask", path, ".png")
            write_mask(target, prediction.mask)
            written["mask"] = self.table.relative(target)
        if self.overlays:
            target = self.table.free_path("overlay", path, ".jpg")
            limits = ImageLimits(max_pixels=prediction.mask.size, allow_truncated=True)
            image = read_image(path, limits=limits).pixels
            write_image(target, overlay(image, predicted=prediction.mask))
            written["overlay"] = self.table.relative(target)
        if self.dicom is not None:
            written |= self._write_dicom(self.dicom, path, prediction)
        return written

    def _write_dicom(
        self, model: ModelIdentity, path: Path, prediction: Prediction
    ) -> dict[str, str]:
        """The DICOM objects, or a warning in the row of an image that cannot have them."""
        from cascade.fields import row
        from cascade.pipeline.dicom_results import encode_results

        try:
            encoded = encode_results(path, prediction, model)
        except ImageError as error:
            warning = f"no DICOM results: {error}"
            warned = replace(prediction, warnings=(*prediction.warnings, warning))
            return {"warnings": row(Prediction, warned)["warnings"]}
        written = {}
        for column, content in zip(DICOM_COLUMNS, encoded, strict=True):
            if content is not None:
                target = self.table.free_path(column, path, ".dcm")
                target.parent.mkdir(parents=True, exist_ok=True)
                with atomic_path(target) as temporary:
                    temporary.write_bytes(content)
                written[column] = self.table.relative(target)
        return written
