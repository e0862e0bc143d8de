"""The lesion's mask as a binary DICOM Segmentation (PS3.3, A.51)."""

from __future__ import annotations

from typing import Any

import numpy as np

from cascade.pipeline.dicom_results.model_identity import ModelIdentity

LESION = "Lesion"
SERIES_NUMBER = 9001


def lesion_segmentation(source: Any, mask: np.ndarray, model: ModelIdentity) -> Any:
    """One segment with the pixels of the lesion.

    Args:
        source: the image's dataset, without its pixels.
        mask: ``(H, W)`` bool in the stored pixels of the image, not empty.
        model: that made it.

    Returns:
        A ``highdicom.seg.Segmentation`` of the image's size.
    """
    import highdicom
    from pydicom.sr.codedict import codes

    algorithm = highdicom.AlgorithmIdentificationSequence(
        name="cascade",
        family=codes.cid7162.ArtificialIntelligence,
        version=model.version,
        parameters={"model_sha256": model.digest},
    )
    segment = highdicom.seg.SegmentDescription(
        segment_number=1,
        segment_label=LESION,
        segmented_property_category=codes.SCT.MorphologicallyAbnormalStructure,
        segmented_property_type=codes.SCT.Lesion,
        algorithm_type=highdicom.seg.SegmentAlgorithmTypeValues.AUTOMATIC,
        algorithm_identification=algorithm,
        tracking_uid=highdicom.UID(),
        tracking_id=LESION,
        anatomic_regions=[anatomic_region(source)],
    )
    return highdicom.seg.Segmentation(
        source_images=[source],
        pixel_array=mask,
        segmentation_type=highdicom.seg.SegmentationTypeValues.BINARY,
        segment_descriptions=[segment],
        series_instance_uid=highdicom.UID(),
        series_number=SERIES_NUMBER,
        sop_instance_uid=highdicom.UID(),
        instance_number=1,
        manufacturer="cascade",
        manufacturer_model_name="cascade",
        software_versions=model.version,
        device_serial_number=model.digest,
        content_label="LESION",
        content_description="Skin lesion found by cascade; not a diagnosis",
        series_description="cascade: lesion",
    )


def anatomic_region(source: Any) -> Any:
    """Where on the body the image was taken, as far as the file says; else skin."""
    import highdicom
    from pydicom.sr.codedict import codes

    for item in source.get("AnatomicRegionSequence") or ():
        if all(item.get(name) for name in ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")):
            return highdicom.sr.CodedConcept.from_dataset(item)
    return codes.SCT.Skin
