"""What all commands share: how much they say, and what they name at the end."""

from __future__ import annotations

import logging
import re
import shlex
import string
import subprocess
import sys
from pathlib import Path

import pytest

from cascade.command_line.main import COMMANDS, main, module_of
from cascade.command_line.next_command import NEXT, next_command
from cascade.command_line.parser import OK, PARTIAL, USAGE
from cascade.progress import is_quiet, progress, verbosity

PREPARE = ["prepare", "--source", "synthetic", "--count", "3", "--output"]


def flags(name):
    return module_of(name).build_parser()._option_string_actions


def destinations(name):
    return {action.dest for action in module_of(name).build_parser()._actions}


def test_each_command_names_the_one_after_it_or_has_a_reason():
    assert set(NEXT) == set(COMMANDS)
    assert {name for name, text in NEXT.items() if text is None} == {"completion", "app", "serve"}


@pytest.mark.parametrize("name", [name for name, text in NEXT.items() if text])
def test_the_next_command_has_flags_that_exist(name):
    program, following, *words = NEXT[name].split()
    assert program == "cascade"
    known = flags(following)
    for flag in (word for word in words if word.startswith("--")):
        assert flag in known
    fields = {field for _, field, _, _ in string.Formatter().parse(NEXT[name]) if field}
    assert fields <= destinations(name)


@pytest.mark.parametrize(
    ("name", "values", "expected"),
    [
        ("prepare", {"output": "my data"}, "cascade check 'my data' --output check"),
        (
            "predict",
            {"inputs": ["a b.jpg", "c"], "model": None},
            "cascade explain 'a b.jpg' c --output explanations",
        ),
        (
            "cls-train",
            {
                "output": "c",
                "data_path": "d",
                "classes": "dx",
                "malignant": ["mel anoma", "bcc"],
                "splits": "s.json",
            },
            "cascade calibrate --segmenter SEGMENTER --classifier c/best.safetensors --data_path d "
            "--classes dx --malignant 'mel anoma' bcc --splits s.json",
        ),
        (
            "calibrate",
            {"output": "m", "data_path": "d", "more_data": ["e"], "splits": "s.json"},
            "cascade evaluate --model m --data_path d --more_data e",
        ),
        (
            "cls-train",
            {"output": "c", "data_path": "d", "folds": 3},
            "cascade evaluate --segmenter SEGMENTER --classifier c/ensemble.safetensors",
        ),
        (
            "segment",
            {"output": "p", "data_path": "d", "agreement": 0.9},
            "cascade seg-train --data_path DATA --more_data d --pseudo_masks p",
        ),
        (
            "predict",
            {"inputs": list("abcd"), "model": "m"},
            "cascade explain INPUTS --model m --output explanations",
        ),
        (
            "seg-train",
            {"output": "it's", "data_path": "d"},
            "cascade seg-eval --model 'it'\"'\"'s'/best.safetensors --data_path d",
        ),
        ("explain", {"model": None}, "cascade app"),
        (
            "evaluate",
            {"model": None, "output": "o"},
            "cascade card --model MODEL --evaluations o --output card.md",
        ),
        ("serve", {}, None),
    ],
)
def test_values_are_quoted_for_a_shell_and_unknown_ones_stay_words(name, values, expected):
    assert next_command(name, values) == expected


def test_a_command_ends_with_the_next_one(tmp_path, capsys):
    assert main([*PREPARE, str(tmp_path / "data")]) == OK
    last = capsys.readouterr().out.splitlines()[-1]
    assert last == f"next: cascade check {tmp_path}/data --output check"
    assert main(["check", str(tmp_path / "data")]) == OK
    last = capsys.readouterr().out.splitlines()[-1]
    assert last.startswith(f"next: cascade seg-train --data_path {tmp_path}/data")


def test_after_a_check_of_images_without_masks_the_masks_are_predicted(tmp_path, capsys):
    assert main([*PREPARE, str(tmp_path)]) == OK
    for path in (tmp_path / "masks_all").iterdir():
        path.unlink()
    assert main(["check", str(tmp_path)]) == OK
    last = capsys.readouterr().out.splitlines()[-1]
    words = shlex.split(last)[1:]
    assert words[:2] == ["cascade", "segment"]
    module_of("segment").build_parser().parse_args(words[2:])


def test_a_failed_command_names_no_next_one(tmp_path, capsys):
    assert main(["check", str(tmp_path)]) == USAGE
    assert "next:" not in capsys.readouterr().out


def test_a_quiet_command_writes_its_files_and_says_nothing(tmp_path, capsys):
    assert main([*PREPARE, str(tmp_path), "--quiet"]) == OK
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""
    assert (tmp_path / "train_data.csv").is_file()


def test_a_quiet_command_still_tells_its_errors(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none"), "--quiet"]) == USAGE
    assert "none" in capsys.readouterr().err


def test_a_quiet_command_tells_what_was_wrong_with_its_inputs(tmp_path, capsys):
    """Whatever ends with 3 says why."""
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    inputs = [str(tmp_path / "bad.jpg"), "--output", str(tmp_path / "out")]
    assert main(["predict", *inputs, "--quiet"]) == PARTIAL
    captured = capsys.readouterr()
    assert "1 failed" in captured.out
    assert "bad.jpg: is not an image" in captured.err
    assert main(["predict", *inputs, "--quiet", "--resume"]) == PARTIAL
    assert "1 of them failed" in capsys.readouterr().out
    assert main(["doctor", "--quiet", "--data_path", str(tmp_path)]) == PARTIAL
    (line,) = capsys.readouterr().out.splitlines()
    assert line.startswith("error")
    assert "there is no train_data.csv" in line


def test_a_quiet_check_tells_errors_and_warnings_only(tmp_path, capsys):
    assert main([*PREPARE, str(tmp_path), "--quiet"]) == OK
    assert main(["check", str(tmp_path), "--quiet", "--skip_duplicates"]) == OK
    captured = capsys.readouterr()
    kinds = {line.partition(":")[0] for line in captured.out.splitlines()}
    assert kinds <= {"warning"}
    next((tmp_path / "images_all").iterdir()).unlink()
    assert main(["check", str(tmp_path), "--quiet", "--skip_duplicates"]) == PARTIAL
    first = capsys.readouterr().out.splitlines()[0]
    assert first.startswith("error:")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a full disk at hand")
def test_a_full_disk_behind_the_output_is_an_error_in_one_line(tmp_path):
    command = [sys.executable, "-m", "cascade", *PREPARE, str(tmp_path / "data")]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, timeout=60)
    assert done.returncode == USAGE
    assert "error: standard output cannot be written (No space left on device)" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_verbose_command_says_where_an_error_comes_from(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none"), "--verbose"]) == USAGE
    assert "Traceback" in capsys.readouterr().err
    assert main(["check", str(tmp_path / "none")]) == USAGE
    assert "Traceback" not in capsys.readouterr().err


def test_quiet_and_verbose_exclude_each_other(tmp_path, capsys):
    assert main(["check", str(tmp_path), "--quiet", "--verbose"]) == USAGE
    assert "--quiet and --verbose" in capsys.readouterr().err


def test_a_command_inside_another_one_says_as_much_and_ends_without_a_hint():
    logger = logging.getLogger("cascade")
    with verbosity(quiet=True, verbose=False) as outermost:
        assert outermost
        with verbosity(quiet=False, verbose=False) as outermost:
            assert not outermost
            assert is_quiet()
            assert logger.level == logging.WARNING
            assert progress([1], description="d").disable
    assert not is_quiet()


def script(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["completion", shell]) == OK
    return capsys.readouterr().out


def completed(text, *words):
    """What bash offers for the last of some words."""
    ask = """
source /dev/stdin
COMP_WORDS=("$@"); COMP_CWORD=$(( $# - 1 )); COMPREPLY=()
of=$(complete -p cascade | sed 's/.*-F \\([^ ]*\\).*/\\1/')
$of cascade "${!#}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""
    done = subprocess.run(
        ["bash", "-c", ask, "bash", "cascade", *words],
        input=text, capture_output=True, text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout.split()


def test_bash_completes_commands_flags_and_choices(capsys, tmp_path):
    text = script("bash", capsys)
    assert set(completed(text, "")) >= set(COMMANDS)
    assert completed(text, "seg-") == ["seg-train", "seg-eval"]
    assert completed(text, "predict", "--tt") == ["--tta"]
    assert completed(text, "predict", "--tta", "") == ["none", "flips", "dihedral"]
    assert completed(text, "prepare", "--source", "isic2016") == ["isic2016"]
    assert completed(text, "prepare", "--source", "syn") == ["synthetic"]
    (tmp_path / "image.jpg").touch()
    assert completed(text, "predict", f"{tmp_path}/im") == [f"{tmp_path}/image.jpg"]


@pytest.mark.parametrize("shell", ["bash", "zsh"])
def test_a_script_has_every_flag_of_every_command(shell, capsys):
    text = script(shell, capsys)
    for name in COMMANDS:
        for flag in flags(name):
            assert re.search(rf"(?<![\w-]){re.escape(flag)}(?![\w-])", text), (name, flag)
