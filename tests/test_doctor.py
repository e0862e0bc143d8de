"""``cascade doctor`` recognises what breaks installations, and says how to repair it."""

import re
import shutil

import pytest

from cascade.command_line import machine_checks
from cascade.command_line.parser import OK, PARTIAL
from cascade.commands.prediction import doctor
from cascade.data.synthetic import SyntheticConfig, write_synthetic_dataset


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
    monkeypatch.setattr(doctor, "examine", lambda _: [bad])
    assert doctor.main([]) == PARTIAL
    assert "1 error found" in capsys.readouterr().out


def test_damaged_default_cascades_are_errors(monkeypatch, tmp_path):
    file, folder = tmp_path / "default.safetensors", tmp_path / "default_onnx"
    monkeypatch.setattr("cascade.models.artifact.default_model", lambda: file)
    monkeypatch.setattr("cascade.models.exported.default_export", lambda: folder)
    assert [doctor._default_model().state, doctor._shipped_exports()[0].state] == ["note"] * 2
    file.write_bytes(b"damaged")
    folder.mkdir()
    (folder / "cascade.json").write_text("{}")
    assert [doctor._default_model().state, doctor._shipped_exports()[0].state] == ["error"] * 2


def test_a_data_folder_is_counted_and_its_faults_are_errors(tmp_path):
    (absent,) = machine_checks.check_data(tmp_path, asked=False)
    (missing,) = machine_checks.check_data(tmp_path, asked=True)
    assert (absent.state, missing.state) == ("note", "error")
    assert "cascade prepare" in missing.message
    write_synthetic_dataset(tmp_path, SyntheticConfig(count_train=6, count_test=2))
    train, test = machine_checks.check_data(tmp_path, asked=True)
    assert train.state == test.state == "ok"
    assert "6 images" in train.message
    assert "6 masks" in train.message
    next((tmp_path / "images_all").glob("*")).unlink()
    states = [finding.state for finding in machine_checks.check_data(tmp_path, asked=True)]
    assert sorted(states) == ["error", "ok"]


@pytest.mark.parametrize(
    ("free", "state"), [(100e6, "error"), (1e9, "note"), (5e9, "ok"), (1e12, "ok")]
)
def test_a_full_disk_is_told(monkeypatch, tmp_path, free, state):
    usage = shutil.disk_usage(tmp_path)._replace(free=int(free))
    monkeypatch.setattr(machine_checks.shutil, "disk_usage", lambda _: usage)
    finding = machine_checks.check_disk("disk", tmp_path / "not" / "there")
    assert finding.state == state
    assert f"{free / 1e9:.1f} GB free" in finding.message


def test_a_folder_that_cannot_be_written_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(machine_checks.os, "access", lambda *_: False)
    finding = machine_checks.check_disk("disk", tmp_path)
    assert finding.state == "error"
    assert str(tmp_path) in finding.message


def test_a_device_that_computes_wrong_numbers_is_found(monkeypatch):
    assert machine_checks._wrong_on("cpu") == ""
    monkeypatch.setattr("torch.allclose", lambda *_, **__: False)
    assert "wrong numbers" in machine_checks._wrong_on("cpu")
    assert "fails" in machine_checks._wrong_on("meta:0:0")


def test_a_gpu_that_torch_cannot_use_is_a_note(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    for there, state in ((False, "ok"), (True, "note")):
        monkeypatch.setattr("cascade.models.gpu.has_gpu", lambda there=there: there)
        (finding,) = machine_checks.check_device()
        assert finding.state == state
    assert "nvidia-smi" in finding.message
