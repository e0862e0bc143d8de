"""A flag means the same in every command, and no command replaces earlier results unasked."""

import logging
from collections import defaultdict

import numpy as np
import pytest

from cascade.command_line import main as console
from cascade.command_line.main import COMMANDS, module_of
from cascade.command_line.shared_flags import SHARED
from cascade.imaging import write_image, write_mask

OWN_DEFAULT = {
    "--augmentation": "average draws no crops without --batch_statistics",
    "--batch_size": "in training it decides what is learnt; calibrate reads small crops only",
    "--data_path": "doctor misses a folder only where one was named",
    "--encoder_weights": "the default model starts from ImageNet",
    "--learning_rate": "the two stages have recipes of their own",
    "--max_megapixels": "page and service read images of strangers",
    "--momentum": "the two stages have recipes of their own",
    "--num_workers": "an evaluation reads ahead in threads, which cost nothing to start",
    "--optimizer": "the two stages have recipes of their own",
    "--output": "results of different kinds lie in different places",
    "--port": "page and service may run side by side",
    "--table": "trainings read the training table, evaluations the test table",
    "--weight_decay": "the two stages have recipes of their own",
}
OWN_MEANING = {
    "--classes": "score names the two words of a class column",
    "--folds": "oof-masks always has some, cls-train only if asked",
    "--image_size": "built with, checked against or changed afterwards, by each kind of command",
    "--images": "what check reads, card writes and export compares; bench counts them",
    "--mask_mode": "mask-modes ignores it, so that files of --config may be shared",
    "--masks": "check names a folder, mask-modes kinds of masks",
    "--max_images": "of a request, or of a comparison",
    "--model": "its help says what the file must hold; default-model writes it",
    "--path": "another word for --model",
    "--precision": "of a training, or of openvino",
    "--resume": "a training may be told to start where there is nothing to go on with",
    "--schedule": "the two stages have recipes of their own",
    "--threshold": "of a mask, or of near-copies",
    "--weights": "of an encoder, or of the runs that ensemble joins",
}


def flags_of(command):
    """By flag what it is, and its default."""
    found = {}
    for action in module_of(command).build_parser()._actions:
        kind = getattr(action, "_typehint", None) or action.type
        meaning = (str(kind), type(action), action.nargs, action.choices, action.help)
        for flag in action.option_strings:
            if flag == "--output":  # how its help goes on depends on the command
                assert action.help.startswith("where results go: "), command
                meaning = (*meaning[:-1], "where results go")
            found[flag] = (meaning, repr(action.default))
    return found


@pytest.fixture(scope="module")
def uses():
    """By flag and command what it is, and its default, for flags of several commands."""
    found = defaultdict(dict)
    for command in COMMANDS:
        for flag, use in flags_of(command).items():
            found[flag][command] = use
    return {flag: of for flag, of in found.items() if flag.startswith("--") and len(of) > 1}


def test_a_flag_has_the_same_type_choices_and_help_everywhere(uses):
    assert {"--output", "--overwrite", "--resume", "--seed", "--device", "--tta"} <= set(uses)
    differing = {
        flag for flag, found in uses.items() if len({meaning for meaning, _ in found.values()}) > 1
    }
    assert differing == set(OWN_MEANING)


def test_a_flag_has_the_same_default_unless_there_is_a_reason(uses):
    differing = {
        flag for flag, found in uses.items() if len({default for _, default in found.values()}) > 1
    }
    assert differing - set(OWN_MEANING) == set(OWN_DEFAULT)


def test_every_shared_flag_is_used(uses):
    assert {f"--{name}" for name in SHARED} <= set(uses)


@pytest.mark.parametrize(
    "command",
    ["seg-eval", "cls-eval", "evaluate", "card", "predict", "segment", "explain", "export", "app",
     "serve"],
)  # fmt: skip
def test_a_model_is_named_by_either_word(command):
    known = module_of(command).build_parser()._option_string_actions
    assert known["--path"] is known["--model"]
    assert known["--model"].dest == "model"
    assert "--path is the same flag" in known["--model"].help


# --- earlier results


STAGES = ["--segmenter", "s.safetensors", "--classifier", "c.safetensors"]
REPLACING = [
    # command, its words, the earlier result, the flag that names another place
    ("prepare", ["--source", "synthetic", "--output", "out"], "out/train_data.csv", "--output"),
    ("check", ["absent", "--output", "out"], "out/check.html", "--output"),
    ("croissant", ["absent", "--output", "out/a"], "out/a", "--output"),
    ("annotate-export", ["absent", "--output", "out"], "out/coco.json", "--output"),
    ("seg-train", ["--output", "out"], "out/best.safetensors", "--output"),
    ("seg-train", ["--output", "out"], "out/curves.png", "--output"),
    ("oof-masks", ["--output", "out"], "out/masks/a.png", "--output"),
    ("cls-train", ["--output", "out"], "out/config.yaml", "--output"),
    ("cls-train", ["--folds", "2", "--output", "out"], "out/ensemble.safetensors", "--output"),
    ("average", ["a", "b", "--output", "out/a"], "out/a", "--output"),
    ("ensemble", ["a", "b", "--output", "out/a"], "out/a", "--output"),
    ("mask-modes", ["--output", "out"], "out/scores.csv", "--output"),
    ("mask-modes", ["--output", "out"], "out/test_masks/a.png", "--output"),
    ("calibrate", [*STAGES, "--output", "out/a"], "out/a", "--output"),
    ("fit-diagnoses", ["--model", "m", "--output", "out/a"], "out/a", "--output"),
    ("fit-metadata", ["--model", "m", "--output", "out/a"], "out/a", "--output"),
    ("default-model", ["--data", "absent", "--model", "out/a"], "out/a", "--model"),
    ("default-model", ["--data", "absent", "--card", "out/a"], "out/a", "--card"),
    ("seg-eval", ["--model", "m", "--output", "out"], "out/metrics.json", "--output"),
    ("cls-eval", ["--path", "m", "--output", "out"], "out/report.html", "--output"),
    ("evaluate", ["--path", "m", "--output", "out"], "out/predictions.csv", "--output"),
    ("evaluate", ["--path", "m", "--output", "out"], "out/heat_maps.csv", "--output"),
    ("evaluate", ["--model", "m", "--output", "out", "--save_masks"], "out/masks/a", "--output"),
    ("evaluate", [*STAGES, "--output", "new", "--save", "out/a"], "out/a", "--save"),
    ("score", ["--truth", "t", "--predicted", "p", "--output", "out"], "out/images.csv",
     "--output"),
    ("card", ["--model", "m", "--output", "out/a.md"], "out/a.md", "--output"),
    ("card", ["--model", "m", "--output", "a.md", "--images", "out"], "out/a-roc.png", "--images"),
    ("predict", ["a.jpg", "--output", "out"], "out/predictions.csv", "--output"),
    ("explain", ["a.jpg", "--output", "out"], "out/explanations.csv", "--output"),
    ("segment", ["--path", "m", "--output", "out", "--data_path", "data"], "out/a.png",
     "--output"),
    ("export", ["--output", "out"], "out/segmenter.onnx", "--output"),
    ("bench", ["--output", "out"], "out/bench.json", "--output"),
]  # fmt: skip


@pytest.fixture
def workplace(tmp_path, monkeypatch):
    """A current folder with a table of one image, and no models."""
    write_image(tmp_path / "data" / "images_all" / "a.png", np.zeros((8, 8, 3), np.uint8))
    (tmp_path / "data" / "train_data.csv").write_text("name\na.png\n")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def ran(capsys):
    """Runs a command; its exit code and the lines of its errors."""
    own = logging.getLogger("cascade")
    before = own.handlers[:], own.level, own.propagate

    def run(command, *words):
        code = console.main([command, *map(str, words)])
        return code, capsys.readouterr().err.strip().splitlines()

    yield run
    own.handlers[:], own.propagate = before[0], before[2]
    own.setLevel(before[1])


def test_every_command_that_writes_results_is_among_those_that_are_tried():
    writing = {command for command in COMMANDS if "--output" in flags_of(command)}
    assert writing == {command for command, *_ in REPLACING}
    assert all("--overwrite" in flags_of(command) for command in writing)


@pytest.mark.parametrize(("command", "words", "earlier", "flag"), REPLACING)
def test_an_earlier_result_is_kept_and_the_ways_out_are_named(
    workplace, ran, command, words, earlier, flag
):
    path = workplace / earlier
    path.parent.mkdir(parents=True)
    path.write_bytes(b"of an earlier run")
    before = sorted(workplace.rglob("*"))
    code, lines = ran(command, *words)
    assert code == 2
    assert len(lines) == 1, "and nothing was begun"
    named = lines[0].removeprefix("error: ").split(": ")[0]
    assert named == earlier or (workplace / named) in path.parents
    assert "--overwrite" in lines[0]
    assert f"({flag})" in lines[0]
    assert ("--resume" in lines[0]) == ("--resume" in flags_of(command))
    assert path.read_bytes() == b"of an earlier run"
    assert sorted(workplace.rglob("*")) == before


def test_an_empty_folder_is_no_earlier_result(workplace, ran):
    (workplace / "out" / "masks").mkdir(parents=True)
    _, lines = ran("evaluate", "--model", "absent", "--output", "out", "--save_masks")
    assert "absent: " in lines[0]
    assert "exists already" not in lines[0]


def test_replacing_leaves_the_files_of_others_alone(workplace, ran):
    for kind in ("truth", "predicted"):
        write_mask(workplace / kind / "a.png", np.eye(8, dtype=bool))
    flags = ["--truth", "truth", "--predicted", "predicted", "--output", "out"]
    assert ran("score", *flags)[0] == 0
    (workplace / "out" / "roc.png").write_bytes(b"of scores, which this run has none of")
    (workplace / "out" / "notes.txt").write_bytes(b"mine")
    before = {path.name: path.read_bytes() for path in (workplace / "out").iterdir()}
    assert ran("score", *flags)[0] == 2
    assert ran("score", *flags, "--overwrite", "--resamples", "10")[0] == 0
    after = {path.name: path.read_bytes() for path in (workplace / "out").iterdir()}
    assert set(after) == set(before) - {"roc.png"}
    assert after["notes.txt"] == b"mine"


@pytest.mark.parametrize("command", ["seg-train", "predict", "segment"])
def test_to_go_on_and_to_replace_exclude_each_other(workplace, ran, command):
    words = {
        "predict": ["a.jpg"],
        "segment": ["--model", "m", "--output", "out", "--data_path", "data"],
    }
    code, lines = ran(command, *words.get(command, []), "--resume", "--overwrite")
    assert code == 2
    assert "--resume keeps earlier results and --overwrite replaces them; give one" in lines[-1]
