"""Errors in a file of --config name the file, the line and the key."""

from __future__ import annotations

import pytest

from cascade.command_line import main as console
from cascade.command_line.main import module_of
from cascade.command_line.parser import settings
from cascade.config import SegmenterConfig
from cascade.errors import ConfigError


@pytest.fixture
def error_of(tmp_path, capfd):
    """The one line that a training ends with, after the file's path."""

    def run(content, *flags):
        path = tmp_path / "my settings.yaml"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        words = ["seg-train", "--output", str(tmp_path / "run")]
        try:
            code = console.main([*words, "--config", str(path), *flags])
        except SystemExit as stopped:
            code = stopped.code
        assert code == 2
        (line,) = capfd.readouterr().err.splitlines()
        before, file, after = line.partition(str(path))
        return after if file and before.endswith("error: ") else line

    return run


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (
            "momentum: 0.5\nlerning_rate: 4\n",
            ", line 2: Option 'lerning_rate' is not accepted; did",
        ),
        ("# mine\n\nepochs: three\n", ', line 3: option "epochs": Expected int. Got value: three'),
        ("optimizer:\n  sdg\n", ', line 1: option "optimizer": Expected one of'),
        ("momentum: 0.5\nepochs: -1\n", ", line 2: epochs is -1; it must be at least 1"),
        ("momentum: 0.5\nepochs:\n", ", line 2: epochs is None; it must be of type int"),
        ("epochs: 1\nmonitor:\n  loss: 1\n", ", line 2: Option 'monitor.loss' is not accepted"),
        ("epochs: 1\ndecoder_channels: [64, x]\n", ', line 2: option "decoder_channels" element 2'),
        ("epochs: [1\nmomentum: 0\n", ", line 2, column 9: is not YAML: expected ',' or ']'"),
        ("epochs: *four\n", ", line 1, column 9: is not YAML: found undefined alias"),
        ("epochs: 1\nencoder: a\x07b\n", ", line 2: is not YAML: special characters"),
        ("- 1\n", ": the file of --config holds no lines of NAME: VALUE"),
        ("", ": the file of --config holds no lines of NAME: VALUE"),
        ("encoder: é\n".encode("latin-1"), ": is not UTF-8 text; save it as UTF-8"),
        ("encoder: !!python/name:os.system\n", ": Problems parsing config: could not determine"),
    ],
)
def test_an_error_begins_with_file_and_line(error_of, content, expected):
    assert error_of(content).startswith(expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("epochs: 3\nmomentum: 0.5\nepochs: 3\n", "line 3: epochs stands in line 1 already"),
        ("{epochs: 3, epochs: 4}", "line 1: epochs stands in line 1 already"),
        ("monitor:\n  a: 1\n  b: 2\n  a: 3\n", "line 4: a stands in line 2 already"),
        ("epochs:\n- a: 1\n  a: 2\n", "line 3: a stands in line 2 already"),
        ("epochs: &x\n  a: *x\n  b: 1\n  b: 1\n", "line 4: b stands in line 3 already"),
    ],
)
def test_a_key_that_stands_twice_is_an_error(error_of, content, expected):
    assert expected in error_of(content)


def test_a_renamed_setting_is_found_by_its_key(tmp_path):
    (path := tmp_path / "mine.yaml").write_text("epochs: 1\nimage_size: -32\n")
    parser = module_of("seg-train").build_parser()
    given = parser.parse_args(["--config", str(path)])
    with pytest.raises(ConfigError) as refused, parser.placing_errors():
        settings(SegmenterConfig, given, size=given.image_size)
    assert str(refused.value).startswith(f"{path}, line 2: size is -32")


def test_a_flag_at_fault_is_not_said_to_stand_in_the_file(error_of):
    message = error_of("momentum: 0.5\nepochs: 3\n", "--epochs", "-1")
    assert message == "error: epochs is -1; it must be at least 1"


def test_a_folder_that_is_not_there_is_placed_if_the_file_names_it(error_of):
    absent = "--data_path absent: there is no such folder"
    assert error_of("epochs: 1\ndata_path: absent\n").startswith(f", line 2: {absent}")
    assert error_of("epochs: 1\n", "--data_path", "absent").startswith(f"error: {absent}")
