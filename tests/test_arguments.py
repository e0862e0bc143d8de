"""The command line: defaults < YAML < flags, strict, helpful and quick."""

from __future__ import annotations

import logging
import os
import re
import runpy
import shutil
import subprocess
import sys
import typing
import warnings
from pathlib import Path

import pytest

from cascade.command_line import parser as arguments_module
from cascade.command_line.main import COMMANDS, module_of
from cascade.command_line.main import main as console
from cascade.command_line.parser import CommandParser, run, settings
from cascade.config import (
    ClassificationTrainConfig,
    ClassifierConfig,
    SegmentationTrainConfig,
    SegmenterConfig,
)
from cascade.errors import CascadeError, CascadeWarning

REPOSITORY = Path(__file__).resolve().parents[1]
SCRIPTS = sorted(path.name for path in (REPOSITORY / "scripts").glob("*.py"))
HEAVY = (
    "torch", "albumentations", "sklearn", "matplotlib", "scipy", "pydicom", "timm", "streamlit",
)  # fmt: skip


def parser_of(command):
    module = module_of(command)
    return module.build_parser()


def parsed(command, *args):
    return parser_of(command).parse_args(list(args))


@pytest.fixture
def yaml_file(tmp_path):
    def write(text):
        path = tmp_path / "settings.yaml"
        path.write_text(text, encoding="utf-8")
        return str(path)

    return write


def error_of(capsys, command, *args):
    with pytest.raises(SystemExit) as stopped:
        parsed(command, *args)
    assert stopped.value.code == 2
    message = capsys.readouterr().err
    assert message.count("\n") == 1, "an error is one line"
    return message


# --- defaults < YAML < flags ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "classes"),
    [
        ("seg-train", (SegmentationTrainConfig, SegmenterConfig)),
        ("oof-masks", (SegmentationTrainConfig, SegmenterConfig)),
        ("cls-train", (ClassificationTrainConfig, ClassifierConfig)),
        ("mask-modes", (ClassificationTrainConfig, ClassifierConfig)),
    ],
)
def test_without_flags_the_settings_are_the_defaults_of_the_dataclass(command, classes):
    given = parsed(command)
    for cls in classes:
        fixed = {"size": given.image_size} if cls in (SegmenterConfig, ClassifierConfig) else {}
        assert settings(cls, given, **fixed) == cls()


def test_the_file_overrules_defaults_and_flags_overrule_the_file(yaml_file):
    path = yaml_file("epochs: 3\nlearning_rate: 5e-3\ndecoder_channels: [64, 32, 16, 8, 4]\n")
    given = parsed("seg-train", "--config", path, "--epochs", "7")
    assert (given.epochs, given.learning_rate) == (7, 0.005)
    assert given.decoder_channels == [64, 32, 16, 8, 4]
    assert given.momentum == 0.99


@pytest.mark.parametrize("form", ["before", "after", "equals"])
def test_flags_win_wherever_the_file_stands(yaml_file, form):
    path = yaml_file("epochs: 3\nmomentum: 0.5\n")
    args = {
        "before": ["--config", path, "--epochs", "7"],
        "after": ["--epochs", "7", "--config", path],
        "equals": ["--epochs=7", f"--config={path}"],
    }[form]
    given = parsed("seg-train", *args)
    assert (given.epochs, given.momentum) == (7, 0.5)


def test_a_file_may_set_switches_and_a_flag_may_add_one(yaml_file):
    path = yaml_file("deterministic: true\nresume: false\n")
    given = parsed("seg-train", "--config", path, "--skip-missing")
    assert (given.deterministic, given.resume, given.skip_missing) == (True, False, True)


@pytest.mark.parametrize("spelled", ["--learning-rate", "--learning_rate", "-lr"])
@pytest.mark.parametrize("form", ["{} 0.25", "{}=0.25"])
def test_hyphens_and_underscores_are_the_same(spelled, form):
    assert parsed("seg-train", *form.format(spelled).split(" ")).learning_rate == 0.25


def test_hyphens_in_values_stay():
    given = parsed("seg-train", "--data-path", "my-data_set", "--encoder", "tu-resnet-x", "-d=a-b")
    assert (given.data_path, given.encoder, given.device) == ("my-data_set", "tu-resnet-x", "a-b")


def test_settings_collects_lists_as_tuples():
    given = parsed("seg-train", "--decoder-channels", "64", "32", "16", "8", "4")
    assert settings(SegmenterConfig, given, size=64).decoder_channels == (64, 32, 16, 8, 4)


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("seg-train", "segmentation.yaml"),
        ("seg-train", "segmentation_documented.yaml"),
        ("oof-masks", "segmentation.yaml"),
        ("cls-train", "classification.yaml"),
        ("cls-train", "classification_documented.yaml"),
        ("cls-train", "neighbours/resnest50_128.yaml"),
        ("mask-modes", "classification.yaml"),
    ],
)
def test_shipped_files_are_found_from_any_folder_and_accepted(command, name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for form in (["--config", f"configs/{name}"], [f"--config=configs/{name}"]):
        parsed(command, *form)


def test_a_file_of_the_current_folder_comes_before_the_shipped_one(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "segmentation.yaml").write_text("epochs: 77\n")
    monkeypatch.chdir(tmp_path)
    assert parsed("seg-train", "--config", "configs/segmentation.yaml").epochs == 77


# --- the documented flags -------------------------------------------------------------------------

DOCUMENTED = {
    "seg-train": {
        "-e --epochs": 20,
        "-en --encoder": "xception",
        "-opt --optimizer": "sgd",
        "-lr --learning_rate": 0.0001,
        "-mom --momentum": 0.99,
        "-wd --weight_decay": 0.9,
        "-d --device": "auto",
        "--image_size": 256,
        "--encoder_weights --weights": "none",
        "--table": "train_data.csv",
        "--validation_fraction": 0.15,
    },
    "cls-train": {
        "-e --epochs": 20,
        "-a --architecture": "inception",
        "-cw --class_weight": 1.0,
        "-opt --optimizer": "adamw",
        "-lr --learning_rate": 0.001,
        "-mom --momentum": 0.9,
        "-wd --weight_decay": 0.01,
        "-d --device": "auto",
        "--image_size": None,
        "--encoder_weights --weights": "none",
        "--mask_mode": "feathered_crop",
        "--masks": "truth",
        "--on_empty": "whole",
        "--table": "train_data.csv",
    },
    "seg-eval": {"-d --device": "auto", "--threshold": 0.5, "--table": "test_data.csv"},
    "cls-eval": {"-d --device": "auto", "--cutoff": None, "--table": "test_data.csv"},
    "evaluate": {
        "-d --device": "auto",
        "--path": None,
        "--table": "test_data.csv",
        "--explain": 0,
    },
    "average": {"-d --device": "auto", "--batch_statistics": None, "--augmentation": "none"},
    "predict": {
        "-d --device": "auto",
        "--output": "predictions",
        "--tta": "none",
        "--model": None,
        "--operating_point": None,
        "--coverage": 0.9,
    },
    "serve": {
        "-d --device": "auto",
        "--host": "127.0.0.1",
        "--port": 8000,
        "--model": None,
        "--operating_point": None,
        "--coverage": 0.9,
        "--tta": "none",
    },
    "explain": {
        "-d --device": "auto",
        "--output": "explanations",
        "--model": None,
        "--target": "malignant",
        "--tta": "none",
        "--runtime": "auto",
    },
    "segment": {"-d --device": "auto"},
    "app": {
        "-d --device": "auto",
        "--model": None,
        "--models": None,
        "--runtime": "auto",
        "--host": "127.0.0.1",
        "--port": 8501,
        "--max_upload_mb": 20,
        "--max_megapixels": 25.0,
    },
    "prepare": {"--source": None, "--count": 200, "--test_fraction": 0.2},
    "calibrate": {"-d --device": "auto", "--sensitivity": 0.9},
    "fit-diagnoses": {"-d --device": "auto", "--tta": "none"},
    "fit-metadata": {"-d --device": "auto"},
    "default-model": {"-d --device": "auto", "--encoder_weights": "imagenet"},
    "oof-masks": {"--folds": 5, "-e --epochs": 20},
}


@pytest.mark.parametrize("command", DOCUMENTED)
def test_documented_flags_and_defaults_hold(command):
    parser = parser_of(command)
    for flags, default in DOCUMENTED[command].items():
        actions = {id(parser._option_string_actions[flag]) for flag in flags.split()}
        assert len(actions) == 1, f"{flags} are one setting"
        assert parser._option_string_actions[flags.split()[0]].default == default, flags


@pytest.mark.parametrize("command", COMMANDS)
def test_no_command_has_short_flags_that_are_not_documented(command):
    short = {
        flag
        for flag in parser_of(command)._option_string_actions
        if not flag.startswith("--") and flag != "-h"
    }
    documented = {word for flags in DOCUMENTED.get(command, {}) for word in flags.split()}
    if command == "oof-masks":  # it trains segmenters, with the same flags
        documented |= {word for flags in DOCUMENTED["seg-train"] for word in flags.split()}
    if command == "mask-modes":  # it trains classifiers
        documented |= {word for flags in DOCUMENTED["cls-train"] for word in flags.split()}
    assert short <= documented


def test_the_table_of_flags_in_the_readme_is_true():
    text = (REPOSITORY / "README.md").read_text(encoding="utf-8")
    table = text.split("| flag | seg-train | cls-train |")[1].split("\n\n")[0]
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in table.splitlines()[2:]]
    assert len(rows) > 5
    for flags, *defaults in rows:
        for command, default in zip(("seg-train", "cls-train"), defaults, strict=True):
            known = parser_of(command)._option_string_actions
            for flag in re.findall(r"`(-[^`]+)`", flags):
                assert (flag in known) == bool(default), f"{command} {flag}"
                if default and flag != "--data_path":  # the full path of the repository's folder
                    assert str(known[flag].default) in (default.strip("`"), f"{default}.0")


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["--learning_rat", "1"], "--learning_rat 1; did you mean --learning_rate?"),
        (["--learning-rat=1"], "did you mean --learning_rate?"),
        (["--epoch", "3"], "did you mean --epochs?"),
        (["-lrr", "3"], "did you mean -lr?"),
        (["--optimizer", "sdg"], "Expected one of ['sgd', 'adam', 'adamw']. Got value: sdg; did"),
        (["--optimizer", "sdg"], "did you mean sgd?"),
        (["--epochs", "many"], 'option "epochs": Expected int. Got value: many'),
        (["--epochs", "2.5"], 'option "epochs": Expected int. Got value: 2.5'),
        (["--learning_rate", "nan"], 'option "learning_rate": Expected float'),
        (["--decoder_channels", "64", "x"], 'option "decoder_channels" element 2: Expected int'),
        (["--epochs"], "argument --epochs/-e: expected one argument\n"),
        (["--config", "none.yaml"], "File does not exist"),
        (["stray"], "unrecognized arguments: stray\n"),
    ],
)
def test_a_wrong_flag_is_one_line_with_the_nearest_word(capsys, args, expected):
    message = error_of(capsys, "seg-train", *args)
    assert message.startswith("cascade seg-train: error: ")
    assert expected in message


def test_flags_are_not_abbreviated(capsys):
    assert "did you mean --momentum" in error_of(capsys, "seg-train", "--moment", "0.5")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("epochz: 3\n", "Option 'epochz' is not accepted; did you mean epochs?"),
        ("learning-rate: 3\n", "Option 'learning-rate' is not accepted; did you mean learning_r"),
        ("epochs: many\n", 'option "epochs": Expected int. Got value: many'),
        ("optimizer: sdg\n", "Got value: sdg; did you mean sgd?"),
        ("encoder: 18\n", 'option "encoder": Expected str. Got value: 18'),
        ("[1, 2\n", "is not YAML"),
        ("- 1\n", "the file of --config holds no lines of NAME: VALUE"),
        ("", "the file of --config holds no lines of NAME: VALUE"),
        ("# only a comment\n", "the file of --config holds no lines of NAME: VALUE"),
    ],
)
def test_a_wrong_file_is_one_line_too(capsys, yaml_file, text, expected):
    assert expected in error_of(capsys, "seg-train", "--config", yaml_file(text))


def test_a_file_cannot_run_code(capsys, yaml_file, tmp_path):
    target = tmp_path / "pwned"
    path = yaml_file(f'encoder: !!python/object/apply:os.system ["touch {target}"]\n')
    error_of(capsys, "seg-train", "--config", path)
    assert not target.exists()


def test_variables_of_the_environment_change_nothing(monkeypatch):
    monkeypatch.setenv("EPOCHS", "99")
    monkeypatch.setenv("CASCADE_EPOCHS", "99")
    monkeypatch.setenv("CASCADE_SEG_TRAIN_EPOCHS", "99")
    assert parsed("seg-train").epochs == 20


# --- exit codes -----------------------------------------------------------------------------------


@pytest.fixture
def messages():
    """What commands log, which goes to standard error."""
    records = []

    class Collector(logging.Handler):
        def emit(self, record):
            records.append((record.levelname, record.getMessage()))

    logger, handler = logging.getLogger("cascade"), Collector()
    propagate, level = logger.propagate, logger.level
    logger.addHandler(handler)
    yield records
    logger.removeHandler(handler)
    logger.propagate, logger.level = propagate, level


def raiser(error):
    def body(_):
        raise error

    return body


def test_a_fine_command_gives_its_own_code():
    assert run(lambda _: 0) == 0
    assert run(lambda _: 3) == 3
    assert run(lambda argv: len(argv), ["a", "b"]) == 2


@pytest.mark.parametrize(
    "error",
    [cls("what and why") for cls in (CascadeError, *CascadeError.__subclasses__())],
    ids=lambda error: type(error).__name__,
)
def test_an_error_of_cascade_is_one_line_and_exit_code_2(error, messages):
    assert run(raiser(error)) == 2
    assert messages == [("ERROR", "error: what and why")]


def test_a_library_that_an_installation_may_lack_is_named(messages):
    assert run(raiser(ModuleNotFoundError("No module", name="torch.nn"))) == 2
    assert "torch.nn is not installed here, which this command needs; install" in messages[0][1]
    with pytest.raises(ModuleNotFoundError):
        run(raiser(ModuleNotFoundError("No module", name="cascade.typo")))


def test_ctrl_c_is_exit_code_130(messages):
    assert run(raiser(KeyboardInterrupt())) == 130
    assert messages == [("ERROR", "interrupted")]


def test_a_defect_of_cascade_is_not_hidden():
    with pytest.raises(ZeroDivisionError):
        run(raiser(ZeroDivisionError()))


def test_warnings_of_cascade_are_one_line_and_others_are_not_changed(messages):
    def body(_):
        warnings.warn("the masks are 0 and 1", CascadeWarning, stacklevel=1)
        return 0

    shown = warnings.showwarning
    assert run(body) == 0
    assert messages == [("WARNING", "warning: the masks are 0 and 1")]
    assert warnings.showwarning is shown


def test_values_outside_their_limits_end_with_code_2_before_any_work(messages, tmp_path):
    from cascade.commands.training.seg_train import main

    assert main(["--epochs", "0", "--output", str(tmp_path / "out")]) == 2
    assert messages == [("ERROR", "error: epochs is 0; it must be at least 1")]
    assert not (tmp_path / "out").exists()


def test_a_missing_data_folder_is_named_with_the_way_to_make_one(messages, tmp_path):
    from cascade.commands.training.seg_train import main

    assert main(["--data_path", str(tmp_path / "none"), "--output", str(tmp_path / "out")]) == 2
    assert "none: there is no such folder" in messages[0][1]
    assert "prepare" in messages[0][1]


# --- the console command --------------------------------------------------------------------------


def test_the_overview_names_every_command(capsys):
    assert console(["--help"]) == 0
    shown = capsys.readouterr().out
    assert all(f"  {name} " in shown for name in COMMANDS)
    assert "not for diagnosis" in shown


def test_without_a_command_the_overview_is_shown_as_an_error(capsys):
    assert console([]) == 2
    assert "usage: cascade COMMAND" in capsys.readouterr().out


def test_an_unknown_command_is_refused_with_the_nearest_name(capsys):
    assert console(["seg-trian"]) == 2
    assert "no command 'seg-trian'; did you mean seg-train" in capsys.readouterr().err


def test_the_version_is_printed(capsys):
    from cascade import __version__

    assert console(["--version"]) == 0
    assert capsys.readouterr().out == f"cascade {__version__}\n"


def test_commands_may_be_spelled_with_underscores(capsys):
    with pytest.raises(SystemExit) as stopped:
        console(["seg_train", "--help"])
    assert stopped.value.code == 0
    assert "Train the first stage" in capsys.readouterr().out


# --- help -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help_ends_with_an_example_that_the_command_accepts(command, capsys):
    with pytest.raises(SystemExit) as stopped:
        parsed(command, "--help")
    assert stopped.value.code == 0
    shown = capsys.readouterr().out
    example = shown.rsplit("\nexample:\n", 1)[1].strip()
    script = {"seg-train": "seg_train", "cls-train": "classification_train"}.get(command, "")
    assert f"cascade {command} " in example or script in example
    known = set(parser_of(command)._option_string_actions)
    for line in example.splitlines():
        words = line.split()
        if command in words or "_pipeline.py " in line:
            assert {word for word in words if word.startswith("--")} <= known, line


@pytest.mark.parametrize("command", COMMANDS)
def test_every_flag_has_a_help_text(command):
    for action in parser_of(command)._actions:
        assert action.help, action.option_strings or action.dest


def python(*args, **environment):
    """Run Python from the repository."""
    return subprocess.run(
        [sys.executable, *args],
        capture_output=True,
        text=True,
        check=False,
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **environment},
    )


def test_help_of_every_command_loads_nothing_heavy():
    code = (
        "import contextlib, io, sys\n"
        "from cascade.command_line.main import COMMANDS, main\n"
        "for name in COMMANDS:\n"
        "    with contextlib.redirect_stdout(io.StringIO()), contextlib.suppress(SystemExit):\n"
        "        main([name, '--help'])\n"
        f"    loaded = [module for module in {HEAVY} if module in sys.modules]\n"
        "    assert not loaded, (name, loaded)\n"
    )
    done = python("-c", code)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_shows_its_own_name_in_help(script):
    done = python(f"scripts/{script}", "--help")
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(f"usage: {script}")
    assert done.stderr == ""


def test_python_m_cascade_is_the_console_command():
    done = python("-m", "cascade", "--version")
    assert done.stdout.startswith("cascade ")


def test_a_reader_that_closes_early_causes_no_traceback():
    """``cascade score ... | head -1``: the pipe breaks while the command still writes."""
    code = (
        "import sys\n"
        "from cascade.command_line.parser import run\n"
        "from cascade.command_line.outputs import say\n"
        "def body(argv):\n"
        "    for _ in range(100000):\n"
        "        say('a line that is long enough to fill the pipe soon')\n"
        "    return 0\n"
        "sys.exit(run(body))\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=REPOSITORY,
    ) as child:
        child.stdout.readline()
        child.stdout.close()
        errors = child.stderr.read()
        assert child.wait(60) == 0
    assert errors == b""


def test_a_command_may_add_flags_of_its_own(capsys):
    parser = CommandParser("cascade x", "Does x.", example="cascade x --side 3")
    parser.add_argument("--side", type=int, default=1)
    assert parser.parse_args(["--side=4"]).side == 4
    with pytest.raises(SystemExit):
        parser.parse_args(["--sied=4"])
    assert "did you mean --side" in capsys.readouterr().err


def test_choices_of_modes_match_the_masking_module():
    from cascade.command_line.options import MaskMode
    from cascade.lesion.masking import MASK_MODES

    assert set(typing.get_args(MaskMode)) == set(MASK_MODES)


def test_the_folder_defaults_lie_in_the_repository():
    assert arguments_module.default_folder("dataset") == REPOSITORY / "dataset"


def test_the_package_is_the_console_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["cascade", "--version"])
    with pytest.raises(SystemExit) as ended:
        runpy.run_module("cascade", run_name="__main__")
    assert ended.value.code in (0, None)
    assert capsys.readouterr().out.startswith("cascade ")


def test_a_data_set_without_any_mask_is_told_what_a_classifier_can_do(
    capsys, tmp_path, dataset_folder
):
    shutil.copytree(dataset_folder, tmp_path / "data", ignore=shutil.ignore_patterns("masks_all"))
    words = ["cls-train", "--data_path", str(tmp_path / "data"), "--output", str(tmp_path / "o")]
    assert console([*words, "--encoder_weights", "none"]) == 2
    error = capsys.readouterr().err
    assert "none of the 12 images has a mask" in error
    assert "cascade segment (--masks)" in error


def test_a_table_that_is_missing_is_named_with_its_folder(capsys, tmp_path):
    assert (
        console(["seg-train", "--data_path", str(tmp_path), "--output", str(tmp_path / "o")]) == 2
    )
    assert f"{tmp_path}/train_data.csv" in capsys.readouterr().err
