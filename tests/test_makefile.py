"""Each target of the Makefile runs what its variables say."""

import configparser
import importlib
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from cascade.command_line.main import COMMANDS, module_of

ROOT = Path(__file__).resolve().parents[1]
TARGETS = re.search(
    r"^\.PHONY: (.+)$", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE
)[1].split()
SAFE = {name: value for name in ("PATH", "HOME", "LANG") if (value := os.environ.get(name))}
RECORDER = """#!/bin/sh
{ printf '%s' "${0##*/}"; printf '\\037%s' "$@"; printf '\\036'; } >> "$RECORD"
"""

EVERY_EXTRA = {
    "test",
    "dicom",
    "highdicom",
    "heif",
    "hub",
    "jxl",
    "export",
    "explain",
    "serve",
    "app",
    "openvino",
    "ray",
    "hdf5",
    "tables",
    "completion",
    "docs",
    "tensorboard",
    "mlflow",
    "wandb",
}

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


@pytest.fixture
def make(tmp_path):
    """Run make with an environment whose python, and a docker, only write down their words."""
    environment = tmp_path / "environment"
    programs = environment / "bin"
    programs.mkdir(parents=True)
    for name in ("python", "mkdocs", "ruff", "mypy", "docker"):
        (programs / name).write_text(RECORDER, encoding="utf-8")
        (programs / name).chmod(0o755)
    for mark in ("installed", "installed-test", "installed-serve", "installed-docs"):
        (environment / mark).touch()

    def run(*words):
        record = tmp_path / "record"
        record.unlink(missing_ok=True)
        variables = {**SAFE, "RECORD": str(record), "PATH": f"{programs}:{SAFE['PATH']}"}
        done = subprocess.run(
            ["make", *words, f"ENVIRONMENT={environment}"],
            cwd=ROOT, env=variables, capture_output=True, text=True, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        text = record.read_text(encoding="utf-8") if record.is_file() else ""
        return done.stdout, [line.split("\037") for line in text.split("\036")[:-1]]

    return run


def flags_of(words):
    """The words after the script or command, parsed by the command's own parser."""
    program, *rest = words
    assert program == "python"
    if rest[0] == "-m":
        command, given = rest[2], rest[3:]
        module = module_of(command)
    else:
        text = (ROOT / rest[0]).read_text(encoding="utf-8")
        module = importlib.import_module(
            re.search(r"from (cascade\.commands[.\w]+) import main", text)[1]
        )
        given = rest[1:]
    return module.build_parser().parse_args(given)


@pytest.mark.parametrize("target", TARGETS)
def test_every_target_expands(make, target):
    shown, recorded = make("-n", target)
    assert shown.strip()
    assert not recorded, "a dry run runs nothing"
    subprocess.run(["sh", "-n"], input=shown, text=True, check=True)


def test_help_lists_every_target(make):
    shown, _ = make("help")
    assert set(re.findall(r"^  make ([a-z-]+) ", shown, re.MULTILINE)) == set(TARGETS)


ALL = ("EPOCHS=3", "MODEL=resnet34", "BATCH=5", "SEED=7", "SIZE=64", "DATA=my data",
       "FLAGS=--resume --device cpu")  # fmt: skip


@pytest.mark.parametrize("target", ["train-seg", "train-cls", "folds"])
def test_a_network_is_trained_as_the_variables_say(make, target):
    kind = "segmentation" if target == "train-seg" else "classification"
    _, [words] = make(target, *ALL, f"CONFIG=configs/demo_{kind}.yaml")
    given = flags_of(words)
    network = given.encoder if target == "train-seg" else given.architecture
    assert (network, given.epochs, given.batch_size, given.seed) == ("resnet34", 3, 5, 7)
    assert (given.image_size, given.data_path) == (64, "my data")
    assert (given.resume, given.device) == (True, "cpu")
    recipe = yaml.safe_load((ROOT / f"configs/demo_{kind}.yaml").read_text(encoding="utf-8"))
    assert given.learning_rate == recipe["learning_rate"], "of the configuration"


@pytest.mark.parametrize(
    ("target", "config"),
    [("train-seg", "segmentation"), ("train-cls", "classification"), ("folds", "classification")],
)
def test_without_variables_the_recommended_recipe_is_trained(make, target, config):
    _, [words] = make(target)
    assert f"configs/{config}.yaml" in words
    assert not {"--epochs", "--batch_size", "--seed", "--image_size", "--data_path"} & set(words)
    flags_of(words)


@pytest.mark.parametrize(
    ("variables", "folds", "tta"),
    [
        ((), 5, "none"),
        (("FOLDS=3", "TTA=dihedral"), 3, "dihedral"),
        (("CONFIG=configs/neighbours/resnest50_128.yaml",), 5, "flips"),
        (("CONFIG=configs/neighbours/resnest50_128.yaml", "FOLDS=4", "TTA=none"), 4, "none"),
    ],
)
def test_folds_are_five_unless_the_recipe_or_a_variable_says(make, variables, folds, tta):
    _, [words] = make("folds", *variables)
    given = flags_of(words)
    assert (given.folds, given.tta, given.output) == (folds, tta, "models/folds")


def test_both_stages_are_joined_and_scored(make):
    _, [words] = make("cascade", "TTA=flips", "BATCH=4", "SEED=2", "DATA=d",
                      "CLASSIFIER=models/folds/ensemble.safetensors")  # fmt: skip
    given = flags_of(words)
    assert given.segmenter == "models/segmenter/best.safetensors"
    assert given.classifier == "models/folds/ensemble.safetensors"
    assert given.save == "models/cascade.safetensors"
    assert (given.tta, given.batch_size, given.seed, given.data_path) == ("flips", 4, 2, "d")


@pytest.mark.parametrize("file", ["", "models/default.safetensors"])
def test_a_report_is_written_for_the_file(make, file):
    _, [words] = make("report", f"FILE={file}", "TTA=dihedral", "FLAGS=--output results/x")
    given = flags_of(words)
    assert given.model == (file or "models/cascade.safetensors")
    assert (given.tta, given.output, given.subgroups) == ("dihedral", "results/x", True)


@pytest.mark.parametrize("target", ["serve", "app"])
def test_service_and_page_start_with_the_file_or_the_default_cascade(make, target):
    _, [plain] = make(target)
    assert plain[1:] == ["-m", "cascade", target]
    _, [words] = make(target, "FILE=my models/a.safetensors", "FLAGS=--port 9000")
    assert words[1:] == ["-m", "cascade", target, "--model", "my models/a.safetensors",
                         "--port", "9000"]  # fmt: skip
    if target in COMMANDS:
        assert flags_of(words).model == "my models/a.safetensors"


def test_the_image_is_built_from_this_folder(make):
    _, [words] = make("image")
    assert words == ["docker", "build", "--tag", "cascade", "."]
    _, [words] = make("image", "IMAGE=registry/cascade:1", "FLAGS=--target page --pull")
    assert words == ["docker", "build", "--tag", "registry/cascade:1", "--target", "page",
                     "--pull", "."]  # fmt: skip


@pytest.mark.parametrize(
    ("mark", "needed"),
    [
        ("installed-serve", {"serve", "app", "explain"}),
        ("installed-docs", {"docs"}),
        ("installed-test", EVERY_EXTRA),
    ],
)
def test_each_environment_has_its_extras(mark, needed):
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    rule = text.split(f"$(ENVIRONMENT)/{mark}: ")[1].split("\n\n")[0]
    (line,) = [line for line in rule.splitlines() if "install.sh" in line and "$(PYTHON)" in line]
    extras = set(shlex.split(line)[-1].removeprefix(".[").removesuffix("]").split(","))
    setup = configparser.ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    assert needed <= extras <= set(setup["options.extras_require"])
    assert set(setup["options.extras_require"]) == EVERY_EXTRA, "no test is to be skipped"
