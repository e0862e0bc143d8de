"""What the cascade says about an image as a DICOM Comprehensive SR (PS3.16, TID 1500)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from cascade.pipeline.dicom_results.model_identity import ModelIdentity
from cascade.pipeline.dicom_results.segmentation import LESION, SERIES_NUMBER, anatomic_region
from cascade.pipeline.metadata import metadata_sentence
from cascade.pipeline.prediction import Prediction

PURPOSE = "Output of research software. Not a diagnosis."
NO_ANSWER = "The cascade gave no probability for this image."


def measurement_report(
    source: Any, prediction: Prediction, segmentation: Any, model: ModelIdentity
) -> Any:
    """One group of measurements: of the segment, or of the image where no lesion was found.

    Args:
        source: the image's dataset, without its pixels.
        prediction: of the image.
        segmentation: its segmentation, or ``None`` without a lesion.
        model: that made it.

    Returns:
        A ``highdicom.sr.ComprehensiveSR``, complete, preliminary and unverified.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    content = highdicom.sr.MeasurementReport(
        observation_context=_observer(model),
        procedure_reported=codes.SCT.DermoscopicPhotography
        if source.get("Modality") == "DMS"
        else codes.SCT.ImagingProcedure,
        imaging_measurements=[_group(source, prediction, segmentation, model)],
        referenced_images=[source],
    )
    return highdicom.sr.ComprehensiveSR(
        evidence=[source] if segmentation is None else [source, segmentation],
        content=content[0],
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER + 1,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="cascade",
        is_complete=True,
        is_final=False,
        is_verified=False,
        manufacturer_model_name="cascade",
        software_versions=model.version,
        device_serial_number=model.digest,
        series_description="cascade: report",
    )


def _observer(model: ModelIdentity) -> Any:
    """The model as the device that observed; the same model always has the same UID."""
    import highdicom
    from pydicom.sr.codedict import codes
    from pydicom.uid import generate_uid

    return highdicom.sr.ObservationContext(
        observer_device_context=highdicom.sr.ObserverContext(
            observer_type=codes.DCM.Device,
            observer_identifying_attributes=highdicom.sr.DeviceObserverIdentifyingAttributes(
                uid=generate_uid(entropy_srcs=["cascade", model.digest]),
                name="cascade",
                manufacturer_name="cascade",
                model_name=model.version,
                serial_number=model.digest,
            ),
        )
    )


def _group(source: Any, prediction: Prediction, segmentation: Any, model: ModelIdentity) -> Any:
    import highdicom
    from highdicom import sr
    from pydicom.sr.codedict import codes

    about = {
        "finding_type": codes.SCT.Lesion,
        "algorithm_id": sr.AlgorithmIdentification(
            name="cascade",
            version=model.version,
            parameters=[f"model_sha256={model.digest}", f"cutoff={model.cutoff:.6g}"],
        ),
        "finding_sites": [sr.FindingSite(anatomic_region(source))],
        "measurements": list(_measurements(prediction)),
    }
    if segmentation is None:
        group: Any = sr.MeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(uid=highdicom.UID(), identifier=LESION),
            source_images=[sr.SourceImageForMeasurementGroup.from_source_image(source)],
            **about,
        )
    else:
        segment = segmentation.SegmentSequence[0]
        group = sr.PlanarROIMeasurementsAndQualitativeEvaluations(
            tracking_identifier=sr.TrackingIdentifier(
                uid=segment.TrackingUID, identifier=segment.TrackingID
            ),
            referenced_segment=sr.ReferencedSegmentationFrame(
                sop_class_uid=segmentation.SOPClassUID,
                sop_instance_uid=segmentation.SOPInstanceUID,
                frame_number=1,
                segment_number=1,
                source_image=sr.SourceImageForSegmentation.from_source_image(source),
            ),
            **about,
        )
    for text in _comments(prediction, model):
        group[0].ContentSequence.append(
            sr.TextContentItem(
                name=codes.DCM.Comment,
                value=text,
                relationship_type=sr.RelationshipTypeValues.CONTAINS,
            )
        )
    return group


def _measurements(prediction: Prediction) -> Iterator[Any]:
    from highdicom.sr import Measurement
    from pydicom.sr.codedict import codes

    if prediction.probabilities:
        percent = 100 * prediction.probabilities["malignant"]
        yield Measurement(codes.DCM.ProbabilityOfCancer, round(percent, 4), codes.UCUM.Percent)
    found = prediction.measurements
    if found is not None and found.diameter_millimetres is not None:
        diameter = round(found.diameter_millimetres, 3)
        yield Measurement(codes.SCT.Diameter, diameter, codes.UCUM.Millimeter)


def _comments(prediction: Prediction, model: ModelIdentity) -> Iterator[str]:
    yield PURPOSE
    if prediction.label is None:
        yield NO_ANSWER
    else:
        yield f"Class by the cutoff {model.cutoff:.6g}: {prediction.label}."
    if known := metadata_sentence(prediction):
        yield known
    if prediction.prediction_set:
        yield f"Classes that remain possible: {', '.join(prediction.prediction_set)}."
    if prediction.mask_quality is not None:
        yield f"Mask quality, 0 to 1: {prediction.mask_quality.score:.3f}."
    if prediction.out_of_distribution_score is not None:
        yield (
            "Out-of-distribution score, above 1 the answer means nothing: "
            f"{prediction.out_of_distribution_score:.3f}."
        )
    for warning in prediction.warnings:
        yield f"Warning: {warning}"
