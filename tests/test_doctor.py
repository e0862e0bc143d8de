"""``cascade doctor`` recognises what breaks installations, and says how to repair it."""

import re

import pytest

from cascade.command_line.parser import OK, PARTIAL
from cascade.commands.prediction import doctor


def versions(**installed: str):
    """Pretend that exactly these distributions are installed; ``_`` stands for ``-``."""
    known = {name.replace("_", "-"): version for name, version in installed.items()}
    return known.get


def test_two_opencv_wheels_come_with_the_repair():
    (one,) = doctor.check_opencv(versions(opencv_python_headless="4.13.0"))
    (none,) = doctor.check_opencv(versions())
    assert (one.state, none.state) == ("ok", "error")
    both = versions(opencv_python="4.13.0", opencv_python_headless="4.13.0")
    (finding,) = doctor.check_opencv(both)
    assert finding.state == "error"
    assert "pip uninstall -y opencv-python-headless opencv-python && pip install" in finding.message


def test_opencv_without_contents_is_found(monkeypatch):
    monkeypatch.setattr(doctor, "_works", lambda *_: False)
    (finding,) = doctor.check_opencv(versions(opencv_python_headless="4.13.0"))
    assert finding.state == "error"
    assert "no contents" in finding.message


@pytest.mark.parametrize(
    ("version", "state"),
    [("2.9.1", "error"), ("1.13.0+cu117", "error"), ("2.10.0", "ok"), ("3.0.0a1+cpu", "ok")],
)
def test_torch_that_could_run_code_from_weights_is_refused(version, state):
    assert doctor.check_torch(version).state == state


def test_missing_and_unfitting_requirements_name_the_command():
    needed = ["numpy>=2.0,<2.6", "timm>=1.0"]
    wrong, missing = doctor.check_requirements(needed, versions(numpy="1.26.4"))
    assert (wrong.state, missing.state) == ("error", "error")
    assert "1.26.4" in wrong.message
    assert "pip install 'timm>=1.0'" in missing.message
    (old,) = doctor.check_requirements(["torch>=2.10"], versions(torch="2.6.0"))
    assert old.state == "error"
    assert "could run code" in old.message


@pytest.mark.parametrize(
    ("version", "state"), [((3, 10), "error"), ((3, 11), "ok"), ((4, 0), "ok")]
)
def test_old_python_is_an_error(version, state):
    assert doctor.check_python(version).state == state


def test_absent_extra_is_a_note_with_its_command():
    findings = {item.subject: item for item in doctor.check_extras(versions())}
    assert {item.state for item in findings.values()} == {"note"}
    for extra, package in (("dicom", "pydicom"), ("explain", "grad-cam"), ("test", "pytest")):
        assert f"'.[{extra}]'" in findings[f"extra {extra}"].message
        assert package in findings[f"extra {extra}"].message


def test_an_installation_for_exported_cascades_is_whole_without_torch():
    needed = ["torch>=2.10", "scikit-learn>=1.5", "numpy>=2.0,<2.6"]
    serving = versions(onnxruntime="1.31.1", numpy="2.4.6")
    note, runtime, numpy = doctor.check_kind(needed, serving)
    assert (note.state, note.subject) == ("note", "torch")
    assert (runtime.state, runtime.message, numpy.state) == ("ok", "1.31.1", "ok")
    assert "only exported cascades run here" in note.message
    without = doctor.check_kind(needed, versions(numpy="2.4.6"))
    assert [finding.state for finding in without] == ["error", "error", "ok"]
    half = doctor.check_kind(needed, versions(onnxruntime="1.31.1", torch="2.14.1"))
    assert [finding.state for finding in half] == ["ok", "error", "error"]


def test_requirements_are_those_of_setup_cfg_and_of_the_installed_package(monkeypatch, tmp_path):
    here = doctor.requirements()
    assert "torch>=2.10" in here
    metadata = [*here, 'pydicom>=3.0.2; extra == "dicom"', 'pytest>=8; extra == "test"']
    monkeypatch.setattr(doctor.importlib.metadata, "requires", lambda _: metadata)
    monkeypatch.setattr(doctor, "REPOSITORY", tmp_path)
    assert doctor.requirements() == here
    assert doctor.requirements("dicom") == ["pydicom>=3.0.2"]


def test_this_installation_is_reported_line_by_line(capsys):
    code = doctor.main([])
    shown = capsys.readouterr().out
    assert code == (PARTIAL if re.search(r"^error ", shown, re.MULTILINE) else OK)
    for subject in ("cascade", "python", "torch", "numpy", "device", "extra dicom"):
        assert re.search(rf"^(ok|note|error) +{subject} ", shown, re.MULTILINE), subject


def test_errors_end_with_a_code_of_their_own(monkeypatch, capsys):
    bad = doctor.Finding("error", "torch", "is 2.6.0")
    monkeypatch.setattr(doctor, "examine", lambda: [bad])
    assert doctor.main([]) == PARTIAL
    assert "1 error found" in capsys.readouterr().out


def test_damaged_default_cascades_are_errors(monkeypatch, tmp_path):
    file, folder = tmp_path / "default.safetensors", tmp_path / "default_onnx"
    monkeypatch.setattr("cascade.models.artifact.default_model", lambda: file)
    monkeypatch.setattr("cascade.models.exported.default_export", lambda: folder)
    assert doctor._default_model().state == doctor._default_export().state == "note"
    file.write_bytes(b"damaged")
    folder.mkdir()
    (folder / "cascade.json").write_text("{}")
    assert doctor._default_model().state == doctor._default_export().state == "error"
