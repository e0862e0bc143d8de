"""Both stages in a row: image in, mask and probability out.

The cascade only knows the protocols of :mod:`cascade.models.protocol`. It has no arithmetic of its
own: images come from ``imaging``, the joint between the stages from ``masking``.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from cascade.errors import ConfigError
from cascade.imaging import (
    ImageLimits,
    ImageSource,
    LoadedImage,
)
from cascade.lesion.masking import (
    MaskPolicy,
)
from cascade.lesion.measurements import check_scale
from cascade.lesion.patient import PatientContext
from cascade.models import hub
from cascade.models.artifact import Artifact, merge_artifacts, read_document, write_artifact
from cascade.models.exported import with_safeguards
from cascade.models.openvino_session import Precision
from cascade.models.protocol import ClassifierStage, SegmenterStage
from cascade.models.runtimes import Runtime, load_stages
from cascade.pipeline.assemble import DecisionRule
from cascade.pipeline.augmented_views import VIEWS, TestTimeAugmentation
from cascade.pipeline.metadata import MetadataOf, require_fusion
from cascade.pipeline.patients import contexts_of
from cascade.pipeline.prediction import Failure, Prediction
from cascade.pipeline.stages import diagnoses_of, working_side
from cascade.pipeline.stream import Chain
from cascade.reliability import Diagnoses, Metadata, Safeguards, chosen_cutoff


class Cascade:
    """Segmenter and classifier in a row.

    Examples:
        >>> cascade = Cascade.load()  # doctest: +SKIP
        >>> cascade(["lesion.jpg"])[0].probabilities["malignant"]  # doctest: +SKIP
        0.07
    """

    def __init__(
        self,
        segmenter: SegmenterStage,
        classifier: ClassifierStage,
        *,
        policy: MaskPolicy | None = None,
        cutoff: float | None = None,
        operating_point: float | None = None,
        coverage: float = 0.9,
        safeguards: Safeguards | None = None,
        limits: ImageLimits | None = None,
    ) -> None:
        """Chain two stages.

        Args:
            segmenter: finds the lesion.
            classifier: judges the masked crop.
            policy: checked against the classifier's own; give it to be sure, not to change it.
            cutoff: probability of malignant from which the label is malignant; by default the one
                stored with the classifier.
            operating_point: sensitivity of a cutoff stored with the classifier, such as 0.9;
                instead of ``cutoff``.
            coverage: share of the images of each class whose ``prediction_set`` is to hold the
                true class.
            safeguards: when not to trust the answer; by default there are none.
            limits: what images are accepted.

        Raises:
            ConfigError: the policy is not the one that the classifier was trained with, or the
                classifier has no such operating point.
        """
        if policy is not None and policy != classifier.policy:
            raise ConfigError(
                f"the classifier was trained with mask policy {classifier.policy}; a cascade with "
                f"{policy} would show it something else. Train a classifier with that policy"
            )
        self.segmenter = segmenter
        self.classifier = classifier
        self.policy = classifier.policy
        self.cutoff = chosen_cutoff(classifier, cutoff, operating_point)
        if not 0 < coverage <= 1:
            raise ConfigError(f"coverage is {coverage}; it must be above 0 and at most 1")
        self.coverage = coverage
        self.safeguards = safeguards or Safeguards()
        self.limits = limits or ImageLimits()

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str] | None = None,
        *,
        device: str = "auto",
        runtime: Runtime = "auto",
        threads: int | None = None,
        precision: Precision = "float32",
        cutoff: float | None = None,
        operating_point: float | None = None,
        coverage: float = 0.9,
        limits: ImageLimits | None = None,
    ) -> Cascade:
        """Read a cascade from its file, or from the folder of an exported one.

        Args:
            path: a ``.safetensors`` file with both stages, or a folder written by
                :func:`cascade.export_onnx`, or ``hf://owner/name[@revision][/file]``, a model on
                the Hugging Face Hub, or ``fast``, the small cascade that comes with the library;
                by default its ``default`` one.
            device: ``auto``, ``cpu``, ``cuda`` or ``cuda:N``.
            runtime: what computes: ``torch`` runs a file, ``onnx`` and ``openvino`` a folder;
                ``auto`` is torch on a GPU; on the CPU it takes ONNX Runtime for a folder, and for
                a file with its export beside it (``NAME_onnx``), else torch.
            threads: of an exported cascade; by default ``OMP_NUM_THREADS``, else all usable cores.
            precision: ``float32``, or ``bfloat16``, which is faster and coarser: in ``openvino``,
                and in ``torch`` where the device computes in it.
            cutoff: see :class:`Cascade`, as for the rest.
            operating_point: sensitivity of a stored cutoff, instead of ``cutoff``.
            coverage: of the prediction sets.
            limits: what images are accepted.

        Raises:
            ModelFileError: the file is missing, damaged, or lacks a stage; a
                :class:`cascade.errors.HubError` where it cannot be fetched.
            MissingExtraError: the runtime, or the client of the hub, is not installed.
        """
        stages = load_stages(
            path, device=device, runtime=runtime, threads=threads, precision=precision
        )
        return cls(
            stages.segmenter,
            stages.classifier,
            cutoff=cutoff,
            operating_point=operating_point,
            coverage=coverage,
            safeguards=stages.safeguards,
            limits=limits,
        )

    def save(self, path: str | os.PathLike[str], *, half: bool = False) -> None:
        """Write both stages into one file.

        Args:
            path: the ``.safetensors`` file to write.
            half: store floating-point tensors as float16.

        Raises:
            ConfigError: a stage is not a torch network, so its weights cannot be stored.
        """
        write_artifact(path, self.to_artifact(half=half))

    def push_to_hub(
        self,
        repo_id: str,
        *,
        card: str | os.PathLike[str] | None = None,
        private: bool = True,
        revision: str | None = None,
        commit_message: str = "Add a cascade",
        token: str | None = None,
    ) -> str:
        """Send the cascade to the Hugging Face Hub, in one commit with its model card.

        Args:
            repo_id: ``owner/name``; the repository is made where there is none.
            card: a model card of ``cascade card``, which becomes ``README.md``, with the pictures
                that it shows; by default a short one without numbers is made.
            private: only the owner sees the repository.
            revision: the branch to write to, made where there is none; by default ``main``.
            commit_message: what the history says.
            token: by default that of ``hf auth login`` or ``HF_TOKEN``.

        Returns:
            The address of what was sent, ``hf://owner/name@commit``, for :meth:`load`.

        Raises:
            ConfigError: a stage is not a torch network, so its weights cannot be stored.
            HubError: there is no token, permission or network, or a repository that is there is
                public and was to be private, or the other way round.
            MissingExtraError: huggingface_hub is not installed.
        """
        with tempfile.TemporaryDirectory() as folder:
            model = Path(folder) / hub.MODEL_FILE
            self.save(model)
            files: dict[str, bytes | Path] = {hub.MODEL_FILE: model}
            files |= hub.card_files(None if card is None else Path(card), read_document(model))
            return hub.push(
                files,
                repo_id,
                private=private,
                revision=revision,
                message=commit_message,
                token=token,
            )

    def to_artifact(self, *, half: bool = False) -> Artifact:
        """The cascade as a model file in memory; see :meth:`save`."""
        from cascade.models.network import Network

        if not (isinstance(self.segmenter, Network) and isinstance(self.classifier, Network)):
            raise ConfigError(
                "only a cascade of torch networks can be saved or exported; load it with the "
                "runtime torch"
            )
        parts = (self.segmenter.to_artifact(half=half), self.classifier.to_artifact(half=half))
        return with_safeguards(merge_artifacts(*parts), self.safeguards)

    def __call__(
        self,
        sources: ImageSource | Iterable[ImageSource],
        *,
        tta: TestTimeAugmentation = "none",
        bgr: bool = False,
        pixels_per_millimetre: float | None = None,
        metadata: MetadataOf = None,
    ) -> list[Prediction]:
        """Predict one or several images; the first broken one raises.

        Args:
            sources: a path, bytes, PIL image or ``(H, W, 3)`` uint8 RGB array, or several of these
                in a list, another iterable, or an array ``(N, H, W, 3)``.
            tta: test-time augmentation of both stages.
            bgr: arrays hold blue first, as OpenCV reads them.
            pixels_per_millimetre: scale of all these images, for measurements in millimetres.
            metadata: age, sex and site of all these images, or of each, as far as they are known;
                for a cascade with a metadata fusion.

        Returns:
            One prediction for each source, in order; always a list.

        Raises:
            ImageError: an image cannot be used; the message names it.
            ConfigError: the scale is not a positive number, or metadata was given that the cascade
                cannot use.
            ShapeError: there are fewer metadata than images.
        """
        results = []
        for result in self.predict_iter(
            sources,
            tta=tta,
            bgr=bgr,
            pixels_per_millimetre=pixels_per_millimetre,
            metadata=metadata,
        ):
            if isinstance(result, Failure):
                raise result.error
            results.append(result)
        return results

    def predict_patient(
        self,
        sources: Iterable[ImageSource],
        *,
        lesions: Sequence[str | None] | None = None,
        tta: TestTimeAugmentation = "none",
        bgr: bool = False,
        pixels_per_millimetre: float | None = None,
        metadata: MetadataOf = None,
    ) -> list[tuple[Prediction, PatientContext]]:
        """Predict the lesions of one patient and compare them; the first broken image raises.

        Args:
            sources: images of the patient, as in :meth:`__call__`.
            lesions: name of the lesion on each, where several images show one; by default each
                image shows another lesion.
            tta: test-time augmentation of both stages.
            bgr: arrays hold blue first, as OpenCV reads them.
            pixels_per_millimetre: scale of all these images, for measurements in millimetres.
            metadata: age, sex and site of all these images, or of each, as far as they are known;
                for a cascade with a metadata fusion.

        Returns:
            Prediction and context of each image, in order.

        Raises:
            ImageError: an image cannot be used; the message names it.
            ShapeError: there are not as many lesions as images.
        """
        predictions = self(
            sources,
            tta=tta,
            bgr=bgr,
            pixels_per_millimetre=pixels_per_millimetre,
            metadata=metadata,
        )
        return list(zip(predictions, contexts_of(predictions, lesions), strict=True))

    def predict_iter(
        self,
        sources: ImageSource | Iterable[ImageSource | LoadedImage],
        *,
        tta: TestTimeAugmentation = "none",
        batch_size: int | None = None,
        bgr: bool = False,
        pixels_per_millimetre: float | None = None,
        metadata: MetadataOf = None,
    ) -> Iterator[Prediction | Failure]:
        """Predict a stream of images in constant memory, one result for each, in order.

        Args:
            sources: any iterable of paths, bytes, PIL images or arrays, or one of these.
            tta: ``none``; ``flips`` averages 4 views; ``dihedral`` averages 8.
            batch_size: images that pass the networks together; by default 32 on a GPU, else 1,
                because larger ones pay on a GPU only.
            bgr: arrays hold blue first, as OpenCV reads them; files know their own order.
            pixels_per_millimetre: scale of all these images, for measurements in millimetres.
            metadata: age, sex and site of all these images, or of each, as far as they are known;
                for a cascade with a metadata fusion.

        Raises:
            ConfigError: the scale is not a positive number, or metadata was given that the cascade
                cannot use.
            ShapeError: there are fewer metadata than images.
        """
        _check_tta(tta)
        check_scale(pixels_per_millimetre)
        fusion = self.safeguards.metadata
        if isinstance(metadata, Metadata):
            require_fusion(fusion, metadata)
        several: Iterable[Any] = [sources] if _is_one(sources) else sources  # type: ignore[assignment]
        chain = Chain(
            self.segmenter,
            self.classifier,
            DecisionRule(
                self.policy,
                self.cutoff,
                self.coverage,
                self.safeguards.conformal,
                self.diagnoses,
                fusion,
            ),
            self.safeguards,
            self.limits,
            self.working_side,
            tta,
            bgr,
            pixels_per_millimetre,
        )
        together = None if batch_size is None else max(1, batch_size)
        return chain.predict(several, batch_size=together, metadata=metadata)

    @property
    def working_side(self) -> int:
        """See :func:`cascade.pipeline.stages.working_side`; small crops are read again, finer."""
        return working_side(self.segmenter, self.classifier)

    @property
    def diagnoses(self) -> Diagnoses | None:
        """The diagnoses that it tells apart; ``None`` where it tells none."""
        return diagnoses_of(self.classifier)

    @property
    def runtime(self) -> str:
        """What computes the networks: ``torch``, ``onnx`` or ``openvino``; empty if unknown."""
        return str(getattr(self.classifier, "runtime", ""))

    @property
    def provenance(self) -> dict[str, Any]:
        """How each stage was made; empty for stages that do not say."""
        stages = {"segmenter": self.segmenter, "classifier": self.classifier}
        return {name: getattr(stage, "provenance", {}) for name, stage in stages.items()}

    def describe(self) -> dict[str, Any]:
        """Both stages' settings as plain JSON values."""
        return {
            "segmenter": self.segmenter.describe(),
            "classifier": self.classifier.describe(),
            "safeguards": self.safeguards.describe(),
            "cutoff": self.cutoff,
            "coverage": self.coverage,
        }


def _is_one(sources: Any) -> bool:
    """Whether this is one image; an array with four axes holds several."""
    if isinstance(sources, (str, bytes, bytearray, memoryview)):
        return True
    if hasattr(sources, "ndim"):
        return bool(sources.ndim != 4)
    return not isinstance(sources, Iterable)


def _check_tta(tta: str) -> None:
    if tta not in VIEWS:
        raise ConfigError(f"tta is {tta!r}; choose from {', '.join(VIEWS)}")
