"""``cascade predict --save_dicom``: segmentations and reports, read back by their own library."""

import sys

import numpy as np
import pytest

pydicom = pytest.importorskip("pydicom")
highdicom = pytest.importorskip("highdicom")

from drawn_dicom import PATIENT, dataset, encode  # noqa: E402
from highdicom import _standard_utils as standard  # noqa: E402
from pydicom.sr._concepts_dict import concepts  # noqa: E402

from cascade.commands.prediction.predict import main  # noqa: E402
from cascade.data.tables import read_csv  # noqa: E402
from cascade.imaging import read_mask  # noqa: E402
from cascade.pipeline.dicom_results import ModelIdentity, encode_results  # noqa: E402

KEPT = ("PatientName", "PatientID", "StudyInstanceUID", "StudyDate", "AccessionNumber")
"""What the results take over from their image."""
CHOICES = ("sr-document-content", "segmentation-multi-frame-functional-groups")
"""Modules of which the tables list all that a file has a choice of."""
NO_CODE_LISTS = {("UCUM", "{pixels}"), ("RFC5646", "en-US")}
DIGEST = "0123456789abcdef" * 4


def image_file(path, pixels, **tags):
    values = dataset(pixels, "RGB", StudyDate="20261130", Modality="XC", AccessionNumber="A1")
    values.SOPClassUID = values.file_meta.MediaStorageSOPClassUID
    values.SOPInstanceUID = values.file_meta.MediaStorageSOPInstanceUID = highdicom.UID()
    values.StudyInstanceUID, values.SeriesInstanceUID = highdicom.UID(), highdicom.UID()
    for keyword, value in tags.items():
        setattr(values, keyword, value)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(encode(values))
    return values


@pytest.fixture
def predict(commanded_cascade, fake_segmenter, fake_classifier, tmp_path, monkeypatch):
    """Run the command; gives the exit code and the rows."""
    commanded_cascade(fake_segmenter, fake_classifier)
    monkeypatch.chdir(tmp_path)

    def run(*args):
        code = main([str(arg) for arg in args])
        table = tmp_path / "predictions" / "predictions.csv"
        return code, read_csv(table)[1] if table.exists() else None

    return run


@pytest.fixture
def source(tmp_path, lesion):
    return image_file(tmp_path / "in" / "a.dcm", lesion.image)


@pytest.fixture
def results(predict, source, tmp_path):
    """The image's dataset, its row, its mask, its segmentation and its report."""
    code, (row,) = predict("in", "--save_dicom", "--save_masks", "--pixels_per_millimetre", "20")
    assert code == 0
    out = tmp_path / "predictions"
    segmentation = highdicom.seg.segread(out / row["dicom_segmentation"])
    report = highdicom.sr.srread(out / row["dicom_report"])
    return source, row, read_mask(out / row["mask"]), segmentation, report


def test_segmentation_is_the_mask_of_its_image(results):
    source, row, mask, segmentation, _ = results
    assert "DICOM" not in row["warnings"]
    assert mask.any()
    assert not mask.all()
    found = segmentation.get_pixels_by_source_instance(
        [source.SOPInstanceUID], combine_segments=True, ignore_spatial_locations=True
    )
    assert np.array_equal(found[0] > 0, mask)
    (segment,) = segmentation.SegmentSequence
    assert segment.SegmentedPropertyTypeCodeSequence[0].CodeMeaning == "Lesion"
    (algorithm,) = segment.SegmentationAlgorithmIdentificationSequence
    assert algorithm.AlgorithmName == "cascade"
    assert segmentation.DeviceSerialNumber in algorithm.AlgorithmParameters


def test_patient_and_study_are_those_of_the_image_and_series_are_new(results):
    source, _, _, *made = results
    for result in made:
        assert [result[keyword].value for keyword in KEPT] == [source[k].value for k in KEPT]
    uids = [
        values[keyword].value
        for values in (source, *made)
        for keyword in ("SeriesInstanceUID", "SOPInstanceUID")
    ]
    assert len(set(uids)) == len(uids)


def nested(values):
    """A dataset and all that are in it."""
    yield values
    for element in values:
        if element.VR == "SQ":
            for item in element.value:
                yield from nested(item)


def numbers(report):
    """Concept to value and unit of each measurement."""
    return {
        values.ConceptNameCodeSequence[0].CodeMeaning: (
            float(values.MeasuredValueSequence[0].NumericValue),
            values.MeasuredValueSequence[0].MeasurementUnitsCodeSequence[0].CodeValue,
        )
        for values in nested(report)
        if "MeasuredValueSequence" in values
    }


def comments(report):
    return [values.TextValue for values in nested(report) if "TextValue" in values]


def test_report_holds_probability_quality_model_and_no_diagnosis(results):
    source, row, _, segmentation, report = results
    found = numbers(report)
    probability, unit = found["Probability of cancer"]
    assert (probability, unit) == (
        pytest.approx(100 * float(row["probability_malignant"]), abs=1e-4),
        "%",
    )
    diameter = float(row["diameter_millimetres"])
    assert found["Diameter"] == (pytest.approx(diameter, abs=1e-3), "mm")
    said = comments(report)
    assert "Output of research software. Not a diagnosis." in said
    assert any(text.endswith(f": {row['label']}.") for text in said)
    assert f"Mask quality, 0 to 1: {float(row['mask_quality']):.3f}." in said
    assert any(text == f"model_sha256={report.DeviceSerialNumber}" for text in said)
    referred = {
        values.ReferencedSOPInstanceUID
        for values in nested(report)
        if "ReferencedSOPInstanceUID" in values
    }
    assert referred == {source.SOPInstanceUID, segmentation.SOPInstanceUID}
    group = report.content.get_planar_roi_measurement_groups()[0]
    assert group.tracking_uid == segmentation.SegmentSequence[0].TrackingUID
    flags = (report.CompletionFlag, report.VerificationFlag, report.PreliminaryFlag)
    assert flags == ("COMPLETE", "UNVERIFIED", "PRELIMINARY")


def missing_attributes(values):
    """What the standard's tables ask for in the mandatory modules and is not there."""
    iod = standard.get_sop_class_iod_map()[values.SOPClassUID]
    for module in standard.get_iod_module_map()[iod]:
        if module["usage"] != "M" or module["key"] in CHOICES:
            continue
        for attribute in standard.get_module_attribute_map()[module["key"]]:
            places = [values]
            for step in attribute["path"]:
                places = [item for place in places for item in place.get(step) or ()]
            for place in places:
                absent = attribute["keyword"] not in place
                empty = absent or place[attribute["keyword"]].is_empty
                if (attribute["type"] == "1" and empty) or (attribute["type"] == "2" and absent):
                    yield module["key"], attribute["keyword"]


def test_every_attribute_that_the_standard_requires_is_there(results):
    *_, segmentation, report = results
    assert list(missing_attributes(segmentation)) == []
    assert list(missing_attributes(report)) == []
    groups = [
        name
        for sequence in ("SharedFunctionalGroupsSequence", "PerFrameFunctionalGroupsSequence")
        for name in segmentation[sequence][0].dir()
    ]
    assert {"SegmentIdentificationSequence", "DerivationImageSequence"} <= set(groups)
    del segmentation.SegmentSequence[0].SegmentLabel
    assert ("segmentation-image", "SegmentLabel") in list(missing_attributes(segmentation))


def test_every_coded_term_is_one_of_the_standard(results):
    *_, segmentation, report = results
    known = {
        (scheme, code)
        for scheme, keywords in concepts.items()
        for codes in keywords.values()
        for code in codes
    }
    used = {
        (values.CodingSchemeDesignator, values.CodeValue)
        for result in (segmentation, report)
        for values in nested(result)
        if "CodeValue" in values
    }
    assert len(used) > 20
    assert used - known <= NO_CODE_LISTS


def test_without_a_lesion_there_is_a_report_alone(predict, tmp_path):
    plain = np.full((64, 64, 3), 230, np.uint8)
    plain[:, ::2] = 240
    source = image_file(tmp_path / "in" / "a.dcm", plain)
    _, (row,) = predict("in", "--save_dicom")
    assert row["dicom_segmentation"] == ""
    report = highdicom.sr.srread(tmp_path / "predictions" / row["dicom_report"])
    assert list(missing_attributes(report)) == []
    assert any("Warning: no lesion found" in text for text in comments(report))
    (evidence,) = report.CurrentRequestedProcedureEvidenceSequence
    (series,) = evidence.ReferencedSeriesSequence
    (referred,) = series.ReferencedSOPSequence
    assert referred.ReferencedSOPInstanceUID == source.SOPInstanceUID


def test_an_abstention_has_no_probability(fake_cascade, source, tmp_path):
    from dataclasses import replace

    path = tmp_path / "in" / "a.dcm"
    (found,) = fake_cascade.predict_iter([path])
    silent = replace(found, label=None, probabilities={}, prediction_set=())
    _, encoded = encode_results(path, silent, ModelIdentity("1", DIGEST, 0.5))
    (tmp_path / "r.dcm").write_bytes(encoded)
    report = highdicom.sr.srread(tmp_path / "r.dcm")
    assert "Probability of cancer" not in numbers(report)
    assert "The cascade gave no probability for this image." in comments(report)


def test_a_report_says_what_was_used_beside_the_image(fake_cascade, source, tmp_path):
    from dataclasses import replace

    path = tmp_path / "in" / "a.dcm"
    (found,) = fake_cascade.predict_iter([path])
    fused = replace(found, metadata_used=("age 55", "sex male"), image_probability=0.25)
    _, encoded = encode_results(path, fused, ModelIdentity("1", DIGEST, 0.5))
    (tmp_path / "r.dcm").write_bytes(encoded)
    said = (
        "Beside the image, age 55, sex male was used; from the image alone the probability of "
        "malignant is 0.250."
    )
    assert said in comments(highdicom.sr.srread(tmp_path / "r.dcm"))


@pytest.mark.parametrize(
    ("charset", "name"),
    [
        ("ISO_IR 100", "Müller^Änne"),
        ("ISO_IR 192", "Müller^Änne"),
        (["", "ISO 2022 IR 87"], "Yamada^Tarou=山田^太郎=やまだ^たろう"),
    ],
)
def test_names_of_any_character_set_are_kept(predict, tmp_path, lesion, charset, name):
    image_file(
        tmp_path / "in" / "a.dcm", lesion.image, SpecificCharacterSet=charset, PatientName=name
    )
    _, (row,) = predict("in", "--save_dicom")
    for kind in ("dicom_segmentation", "dicom_report"):
        assert pydicom.dcmread(tmp_path / "predictions" / row[kind]).PatientName == name


def test_place_on_the_body_is_taken_over(predict, tmp_path, lesion):
    place = pydicom.Dataset()
    place.CodeValue, place.CodingSchemeDesignator, place.CodeMeaning = "77568009", "SCT", "Back"
    image_file(tmp_path / "in" / "a.dcm", lesion.image, AnatomicRegionSequence=[place])
    _, (row,) = predict("in", "--save_dicom")
    for kind in ("dicom_segmentation", "dicom_report"):
        values = pydicom.dcmread(tmp_path / "predictions" / row[kind])
        assert "77568009" in [item.get("CodeValue") for item in nested(values)]


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"StudyInstanceUID": ""}, "has no StudyInstanceUID to refer to"),
        ({"Modality": "", "SeriesInstanceUID": ""}, "has no SeriesInstanceUID and no Modality"),
        ({"PatientSex": "SECRET"}, "its PatientSex is none of M, F and O"),
        ({"StudyDate": "SECRET"}, "its StudyDate is none that DICOM allows"),
        ({"SpecificCharacterSet": "SECRET"}, "its SpecificCharacterSet is none that DICOM allows"),
        ({"PatientBirthDate": "20260230"}, "its PatientBirthDate is none that DICOM allows"),
    ],
)
def test_an_image_that_cannot_be_referred_to_has_a_warning(predict, tmp_path, lesion, tags, words):
    image_file(tmp_path / "in" / "a.dcm", lesion.image, **tags)
    code, (row,) = predict("in", "--save_dicom")
    assert code == 0
    assert f"no DICOM results: a.dcm: {words}" in row["warnings"]
    assert row["label"]
    assert row["dicom_segmentation"] == row["dicom_report"] == ""
    assert PATIENT not in row["warnings"]
    assert "SECRET" not in row["warnings"]


def test_a_name_that_is_not_in_its_character_set_is_not_garbled(predict, tmp_path, lesion):
    path = tmp_path / "in" / "a.dcm"
    image_file(path, lesion.image, SpecificCharacterSet="ISO_IR 192", PatientName="Doe^Jane")
    path.write_bytes(path.read_bytes().replace(b"Doe^Jane", "D\xf6e^Jane".encode("latin-1")))
    _, (row,) = predict("in", "--save_dicom")
    assert "its PatientName is not in its SpecificCharacterSet" in row["warnings"]
    assert row["dicom_report"] == ""


def test_another_file_is_predicted_with_a_warning(predict, photos, source, tmp_path):
    code, rows = predict("photos", "in", "--save_dicom")
    assert code == 3, "b.png is broken"
    assert [bool(row["dicom_report"]) for row in rows] == [False, False, False, True]
    assert "no DICOM results: a.png: is not a DICOM file" in rows[0]["warnings"]
    assert rows[0]["label"]
    assert "DICOM results" not in rows[1]["warnings"]


def test_resuming_keeps_results_and_overwriting_removes_them(predict, source, tmp_path, capfd):
    _, rows = predict("in", "--save_dicom")
    image_file(tmp_path / "in" / "b.dcm", np.full((64, 64, 3), 9, np.uint8))
    files = sorted((tmp_path / "predictions").rglob("*.dcm"))
    before = [path.read_bytes() for path in files]
    _, more = predict("in", "--save_dicom", "--resume")
    assert more[0] == rows[0]
    assert [path.read_bytes() for path in files] == before
    assert predict("in", "--resume")[0] == 2
    error = capfd.readouterr().err
    assert "it has the others dicom_segmentation, dicom_report" in error
    assert "other flags were given" in error
    predict("in", "--overwrite")
    assert list((tmp_path / "predictions").rglob("*.dcm")) == []


def test_results_are_no_inputs(predict, source, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path / "in")
    assert main([".", "--output", ".", "--save_dicom"]) == 0
    assert main([".", "--output", ".", "--save_dicom", "--resume"]) == 0
    assert [row["name"] for row in read_csv("predictions.csv")[1]] == ["a.dcm"]


def test_the_flag_is_refused_before_anything_is_read(predict, monkeypatch, capfd):
    assert predict("absent", "--save_dicom", "--engine", "ray") == (2, None)
    assert "--save_dicom is not for --engine ray" in capfd.readouterr().err
    monkeypatch.setitem(sys.modules, "highdicom", None)
    assert predict("absent", "--save_dicom") == (2, None)
    assert "pip install '.[dicom,highdicom]'" in capfd.readouterr().err


def test_rows_of_patients_name_their_results_too(predict, source, tmp_path):
    (tmp_path / "in" / "t.csv").write_text("path,patient_id\na.dcm,p1\n")
    _, (row,) = predict("in/t.csv", "--save_dicom")
    assert row["patient_id"] == "p1"
    assert row["dicom_report"] == "dicom_reports/a.dcm"
