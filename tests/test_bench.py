"""``cascade bench``: turns, medians, the floor, what is left out, and its results on disk."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import shutil
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from tiny_export import tiny_cascade, tiny_export

from cascade.command_line.main import main as console
from cascade.errors import ConfigError, DataError, MissingExtraError
from cascade.models.runtimes import model_identity
from cascade.pipeline import stream
from cascade.speed import configurations as found_here
from cascade.speed import measure as measuring
from cascade.speed.configurations import Configuration, Forms, choose, find_forms
from cascade.speed.floor import (
    decode_ms,
    floor_seconds,
    graph_flops,
    merge_floors,
    peak_flops,
    torch_flops,
)
from cascade.speed.images import drawn_files, find_files, parse_shape
from cascade.speed.measure import Speed, measure
from cascade.speed.report import (
    choice_lines,
    document,
    floor_line,
    naive_ratio,
    plot_speeds,
    plot_steps,
    table_rows,
)
from cascade.speed.steps import NETWORKS, overhead_ms, steps_ms
from cascade.speed.worker import measure_round, peak_memory_mb, work

ONNX = Configuration("onnx", model="folder")
TORCH = Configuration("torch", model="file")
NAIVE = Configuration("naive")
FLOOR = {
    "flops": {"segmenter": 3e9, "classifier": 1e9}, "side": 256, "counted_by": "hand",
    "decode_ms": {"small": 20.0}, "peak_flops": {"float32": 1e11, "bfloat16": None},
}  # fmt: skip


def answer(rate, *, latencies=(10.0, 20.0), memory=100.0):
    return {
        "images_per_second": rate, "latencies_ms": list(latencies), "processor_ms": 5.0,
        "peak_memory_mb": memory, "cold_start_s": 1.0,
    }  # fmt: skip


class Answers:
    """Stands for the processes: gives each configuration its answers, one a turn."""

    def __init__(self, **by_runtime):
        self.left = {runtime: list(answers) for runtime, answers in by_runtime.items()}
        self.asked = []

    def __call__(self, task, threads):
        runtime = "floor" if task["kind"] == "floor" else task["runtime"]
        self.asked.append((runtime, threads))
        return self.left[runtime].pop(0)


# --- what is measured


def test_all_runtimes_precisions_and_batch_sizes_are_tried(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name != "openvino" or None)
    forms = Forms(file="a.safetensors", folder="a_onnx")
    chosen, left_out = choose(forms, runtimes=None, precisions=None, batch_sizes=[1, 8])
    assert {item.runtime for item in chosen} == {"torch", "onnx"}
    assert len(chosen) == 2 * len(found_here.PRECISIONS) * 2
    assert {item.model for item in chosen if item.runtime == "torch"} == {"a.safetensors"}
    assert {item.model for item in chosen if item.runtime == "onnx"} == {"a_onnx"}
    assert [item.name for item in left_out] == ["openvino"]
    assert "not installed" in left_out[0].reason


def test_a_runtime_that_was_asked_for_must_be_there(monkeypatch):
    forms = Forms(file=None, folder="a_onnx")
    with pytest.raises(ConfigError, match=r"torch needs the cascade as a \.safetensors file"):
        choose(forms, runtimes=["torch"], precisions=None, batch_sizes=[1])
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(MissingExtraError, match="pip install openvino"):
        choose(forms, runtimes=["openvino"], precisions=None, batch_sizes=[1])
    with pytest.raises(ConfigError, match="nothing to measure"):
        choose(forms, runtimes=None, precisions=None, batch_sizes=[1])
    with pytest.raises(MissingExtraError, match="--naive needs torch"):
        found_here.require_naive()


def test_both_forms_must_be_the_same_cascade(tmp_path):
    file = tmp_path / "cascade.safetensors"
    tiny_cascade().save(file)
    assert find_forms(str(file), str(tiny_export())) == Forms(file, tiny_export())
    assert find_forms(str(tiny_export()), None) == Forms(None, tiny_export())
    assert find_forms(str(file), None) == Forms(file, None)
    beside = shutil.copytree(tiny_export(), tmp_path / "cascade_onnx")
    assert find_forms(str(file), None) == Forms(file, beside)
    other = tmp_path / "other.safetensors"
    tiny_cascade().save(other, half=True)
    assert model_identity(other) != model_identity(file)
    with pytest.raises(ConfigError, match="not the same cascade"):
        find_forms(str(other), str(tiny_export()))
    with pytest.raises(ConfigError, match="both exported"):
        find_forms(str(tiny_export()), str(tiny_export()))


def test_drawn_files_are_jpegs_with_halved_colour_and_come_again(tmp_path, monkeypatch):
    monkeypatch.setattr("cascade.speed.images.MOST_PIXELS", 64 * 96 * 3)
    files = drawn_files((64, 96), 5, tmp_path)
    assert files[3:] == files[:2]
    assert len(set(files)) == 3
    assert cv2.imread(files[0]).shape == (64, 96, 3)
    data = Path(files[0]).read_bytes()
    frame = data.index(b"\xff\xc0")
    assert data[frame + 11] == 0x22, "brightness has twice the samples of colour each way"


def test_named_files_are_taken_evenly_spaced(tmp_path):
    for number in range(6):
        cv2.imwrite(str(tmp_path / f"{number}.png"), np.zeros((8, 8, 3), np.uint8))
    names = [path.rpartition("/")[2] for path in find_files([str(tmp_path)], 3)]
    assert names == ["0.png", "2.png", "4.png"]
    with pytest.raises(ConfigError, match="there is no image"):
        find_files([str(tmp_path / "absent*")], 3)


def test_shapes_are_written_as_width_and_height():
    assert parse_shape("1024x768") == (768, 1024)
    with pytest.raises(ConfigError, match="WIDTHxHEIGHT"):
        parse_shape("1024")


# --- how it is measured


def test_a_round_judges_each_file_alone_and_then_all():
    calls = []

    def predict(files):
        calls.append(list(files))
        return iter(files)

    measured = measure_round(predict, ["a", "b", "c"], warm_up=2)
    assert calls == [["a", "b"], ["a"], ["b"], ["c"], ["a", "b", "c"]]
    assert len(measured["latencies_ms"]) == 3
    assert measured["images_per_second"] > 0


def test_the_peak_of_memory_grows_with_what_is_held():
    before = peak_memory_mb()
    if before is None:
        pytest.skip("this system has no /proc")
    held = np.ones(200_000_000, np.uint8)
    assert peak_memory_mb() - before > 50
    assert held[0]


def test_a_worker_measures_refuses_and_fails_in_words(tmp_path):
    files = drawn_files((64, 96), 2, tmp_path)
    task = {"kind": "cascade", "runtime": "onnx", "precision": "float32", "batch_size": 2,
            "model": str(tiny_export()), "files": files}  # fmt: skip

    def answers(**changes):
        given = []
        work({**task, **changes}, given.append)
        return given

    first, measured = answers()
    assert first == {"first": True}
    assert len(measured["latencies_ms"]) == 2
    [refused] = answers(runtime="torch")
    assert "torch does not run" in refused["refused"]
    (tmp_path / "broken.jpg").write_bytes(b"no image")
    [failed] = answers(files=[str(tmp_path / "broken.jpg")])
    assert "broken.jpg" in failed["failed"]


def test_configurations_take_turns_and_medians_are_reported():
    ask = Answers(
        onnx=[answer(1.0), answer(50.0, latencies=(30.0, 40.0)), answer(4.0, memory=300.0)],
        torch=[answer(2.0), answer(2.0), answer(2.0)],
    )
    measured = measure([ONNX, TORCH], {"small": ["a"]}, threads=3, rounds=3, ask=ask)
    assert ask.asked == [("onnx", 3), ("torch", 3)] * 3
    onnx, torch = measured.speeds
    assert (onnx.images_per_second, torch.images_per_second) == (4.0, 2.0)
    assert onnx.every_round == (1.0, 50.0, 4.0)
    assert onnx.latency_p50_ms == 20.0
    assert onnx.latency_p99_ms == pytest.approx(np.percentile([10, 20, 30, 40, 10, 20], 99))
    assert onnx.peak_memory_mb == 100.0
    assert onnx.floor_share is None


def test_what_refuses_or_breaks_down_is_listed_and_not_asked_again():
    ask = Answers(
        onnx=[answer(1.0), {"ended": "its process ended with -9: no message"}],
        torch=[{"refused": "not in this precision"}],
        naive=[answer(1.0)] * 3,
    )
    measured = measure([ONNX, TORCH, NAIVE], {"small": ["a"]}, threads=1, rounds=3, ask=ask)
    assert [runtime for runtime, _ in ask.asked].count("torch") == 1
    assert [speed.runtime for speed in measured.speeds] == ["naive"]
    assert {item.name: item.reason for item in measured.not_measured} == {
        "torch float32": "not in this precision",
        "onnx float32, batch 1, small": "its process ended with -9: no message",
    }
    with pytest.raises(ConfigError, match="nothing could be measured"):
        measure([TORCH], {"small": ["a"]}, threads=1, rounds=1,
                ask=Answers(torch=[{"refused": "not in this precision"}]))  # fmt: skip


def test_an_image_that_cannot_be_judged_ends_the_measurement():
    with pytest.raises(DataError, match=r"a\.jpg: broken"):
        measure([ONNX], {"small": ["a"]}, threads=1, rounds=2,
                ask=Answers(onnx=[{"failed": "a.jpg: broken"}]))  # fmt: skip


# --- the floor


def test_the_floor_is_decoding_on_all_threads_and_arithmetic_at_the_peak():
    assert floor_seconds(FLOOR, "small", "float32", 2) == pytest.approx(0.02 / 2 + 4e9 / 1e11)
    as_float32 = floor_seconds(FLOOR, "small", "float32", 1)
    assert floor_seconds(FLOOR, "small", "bfloat16", 1) == as_float32
    faster = {**FLOOR, "peak_flops": {"float32": 1e11, "bfloat16": 4e11}}
    assert floor_seconds(faster, "small", "bfloat16", 1) == pytest.approx(0.02 + 0.01)
    unknown = {**FLOOR, "peak_flops": {"float32": None}}
    assert floor_seconds(unknown, "small", "float32", 1) is None


def test_the_floor_has_a_turn_in_each_round_and_the_best_of_each_counts():
    other = {**FLOOR, "decode_ms": {"small": 10.0}, "peak_flops": {"float32": 5e10,
                                                                   "bfloat16": None}}  # fmt: skip
    merged = merge_floors([FLOOR, other])
    assert merged["decode_ms"] == {"small": 10.0}
    assert merged["peak_flops"] == {"float32": 1e11, "bfloat16": None}
    ask = Answers(floor=[FLOOR, other], onnx=[answer(10.0)] * 2, naive=[answer(5.0)] * 2)
    measured = measure([ONNX, NAIVE], {"small": ["a"]}, threads=1, rounds=2, ask=ask,
                       floor_of={"file": None, "folder": "folder"})  # fmt: skip
    assert [runtime for runtime, _ in ask.asked] == ["floor", "onnx", "naive"] * 2
    assert measured.speeds[0].floor_share == pytest.approx(10 * (0.01 + 0.04))
    assert measured.speeds[1].floor_share is None, "its networks are others"


def test_operations_of_a_graph_are_those_that_torch_counts():
    cascade = tiny_cascade()
    for stage, predict in (
        ("segmenter", cascade.segmenter.predict),
        ("classifier", cascade.classifier.predict_proba),
    ):
        side, flops = graph_flops((tiny_export() / f"{stage}.onnx").read_bytes())
        assert side == getattr(cascade, stage).size
        assert flops == pytest.approx(torch_flops(predict, side), rel=0.02)
        assert flops > 0


def test_a_graph_whose_shapes_are_open_is_not_counted():
    graph = onnx.load(tiny_export() / "classifier.onnx")
    graph.graph.input[0].type.tensor_type.shape.dim[1].ClearField("dim_value")
    with pytest.raises(DataError, match="is not known"):
        graph_flops(graph.SerializeToString())


def test_operations_of_one_convolution_are_counted_by_hand():
    import torch

    layer = torch.nn.Conv2d(3, 5, 3, padding=1, bias=False)

    def predict(images):
        return layer(torch.from_numpy(images).permute(0, 3, 1, 2).float())

    assert torch_flops(predict, 16) == 2 * 16 * 16 * 5 * 3 * 9


def test_the_peak_is_that_of_a_convolution_in_a_known_precision(monkeypatch):
    monkeypatch.setattr("cascade.speed.floor.CONVOLUTIONS", ((1, 8, 8),))
    monkeypatch.setattr("cascade.speed.floor._SECONDS_EACH", 0.001)
    assert peak_flops("float32", 1) > 1e6
    assert peak_flops("int8", 1) is None
    assert peak_flops("no precision", 1) is None


def test_decoding_is_timed_where_opencv_can_decode(tmp_path):
    [file, *_] = drawn_files((480, 640), 2, tmp_path)
    assert decode_ms(file, 64) > 0
    (tmp_path / "a.dcm").write_bytes(b"DICM")
    assert decode_ms(tmp_path / "a.dcm", 64) == 0


# --- what is said


def speed(runtime, rate, precision="float32", images="small"):
    return Speed(images, runtime, precision, 1, 1, rate, 10.0, 20.0, 5.0, None, 1.0, None, (rate,))


def test_the_fastest_is_named_also_without_lower_precision():
    speeds = [
        speed("onnx", 2.0), speed("openvino", 3.0, "bfloat16"), speed("naive", 9.0),
        speed("naive", 1.0, images="large"),
    ]  # fmt: skip
    [line] = choice_lines(speeds)
    assert line == (
        "fastest on small: openvino bfloat16, batch 1 (3.00 images/s); "
        "in float32: onnx float32, batch 1 (2.00 images/s)"
    )
    assert choice_lines([speed("onnx", 2.0)]) == [
        "fastest on small: onnx float32, batch 1 (2.00 images/s)"
    ]


def test_ratios_are_to_the_naive_pair_on_the_same_images(tmp_path):
    speeds = [speed("onnx", 6.0), speed("naive", 2.0), speed("onnx", 6.0, images="large")]
    assert [naive_ratio(one, speeds) for one in speeds] == [3.0, 1.0, None]
    assert [row[-2] for row in table_rows(speeds)] == ["3.00", "1.00", ""]
    written = document(measuring.Measured(tuple(speeds), (), None), {}, {})
    assert written["fastest"] == {
        "small": "onnx float32, batch 1",
        "large": "onnx float32, batch 1",
    }
    assert [one["naive_ratio"] for one in written["results"]] == [3.0, 1.0, None]
    plot = cv2.imread(str(plot_speeds(speeds, tmp_path / "bench.png")))
    assert plot.shape[0] > 100


def test_the_steps_of_an_image_add_up_and_leave_the_cascade_as_it_was(tmp_path):
    before = stream.find_lesion
    files = drawn_files((64, 96), 2, tmp_path)
    steps = steps_ms(str(tiny_export()), files)
    assert stream.find_lesion is before
    names = list(steps)
    assert (names[0], names[-1]) == ("reading", "everything else")
    spent = [name for name, value in steps.items() if value > 0]
    assert {"reading", "segmenter", "crop", "classifier", "image quality"} <= set(spent)
    own = {name: value for name, value in steps.items() if name not in ("reading", *NETWORKS)}
    assert overhead_ms(steps) == pytest.approx(sum(own.values()))


def test_a_classifier_that_tells_diagnoses_has_its_own_step(tmp_path):
    steps = steps_ms("default", drawn_files((96, 128), 1, tmp_path))
    assert steps["classifier"] > 0


def test_steps_are_drawn_where_they_are_known(tmp_path):
    path = tmp_path / "steps.png"
    assert plot_steps([speed("naive", 1.0)], path) is None
    known = dataclasses.replace(speed("onnx", 1.0), steps_ms={"reading": 2.0, "crop": 3.0})
    assert table_rows([known])[0][-1] == "3.0"
    plot_steps([known, speed("naive", 1.0)], path)
    assert cv2.imread(str(path)).shape[0] > 100


def test_the_command_measures_an_exported_cascade_in_a_process(tmp_path, capfd):
    output = tmp_path / "bench"
    code = console(
        ["bench", "--model", str(tiny_export()), "--runtimes", "onnx", "--precisions", "float32",
         "--batch-sizes", "2", "--rounds", "1", "--images", "2", "--drawn", "96x64",
         "--threads", "1", "--no_floor", "--output", str(output)]
    )  # fmt: skip
    assert code == 0
    shown = capfd.readouterr().out
    assert "fastest on 96x64: onnx float32, batch 2" in shown
    written = json.loads((output / "bench.json").read_text(encoding="utf-8"))
    [result] = written["results"]
    assert (result["runtime"], result["batch_size"], result["rounds"]) == ("onnx", 2, 1)
    assert result["cold_start_s"] * 1000 > result["latency_p50_ms"] > 0
    assert written["settings"]["threads"] == 1
    assert (output / "bench.png").stat().st_size > 1000


@pytest.mark.parametrize("flag", ["--rounds", "--images", "--threads"])
def test_counts_must_be_positive(tmp_path, caplog, flag):
    assert console(["bench", flag, "0", "--output", str(tmp_path / "out")]) == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_the_naive_pair_judges_files(tmp_path):
    from cascade.speed.naive import NaivePair

    pair = NaivePair()
    [file, *_] = drawn_files((64, 96), 2, tmp_path)
    assert pair.predict_mask(file).shape == (256, 256)
    [probabilities] = pair.predict([file])
    assert probabilities.sum() == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("form", ["folder", "file"])
def test_a_floor_is_measured_from_either_form(tmp_path, monkeypatch, form):
    from cascade.speed import floor

    monkeypatch.setattr(floor, "peak_flops", lambda precision, threads: 1e11)
    path = tiny_export()
    if form == "file":
        path = tmp_path / "cascade.safetensors"
        tiny_cascade().save(path)
    (image,) = drawn_files((96, 128), 1, tmp_path)
    told = []
    task = {"kind": "floor", "folder": None, "file": None, "precisions": [], "threads": 1,
            "sets": {"small": [str(image)]}, form: str(path)}  # fmt: skip
    work(task, told.append)
    (measured,) = told
    assert set(measured["flops"]) == {"segmenter", "classifier"}
    assert all(flops > 1e4 for flops in measured["flops"].values())
    assert measured["decode_ms"]["small"] > 0
    assert "operations an image" in floor_line(measured)


def test_a_floor_without_a_form_says_why(tmp_path):
    (image,) = drawn_files((96, 128), 1, tmp_path)
    told = []
    task = {"kind": "floor", "folder": None, "file": None, "precisions": [], "threads": 1,
            "sets": {"small": [str(image)]}}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("cascade.speed.floor.peak_flops", lambda precision, threads: None)
        patch.setattr("cascade.speed.floor.decode_ms", lambda path, side: 1.0)
        work(task, told.append)
    assert "not known" in floor_line(told[0])


def test_the_process_answers_on_standard_output_alone(monkeypatch, capsys, tmp_path):
    from cascade.speed import worker

    files = [str(path) for path in drawn_files((96, 128), 2, tmp_path)]
    task = {"kind": "cascade", "runtime": "onnx", "precision": "float32", "batch_size": 1,
            "model": str(tiny_export()), "files": files}  # fmt: skip
    monkeypatch.setattr("sys.argv", ["worker", json.dumps(task)])
    worker.main()
    first, measured = map(json.loads, capsys.readouterr().out.splitlines())
    assert first == {"first": True}
    assert len(measured["latencies_ms"]) == 2


def test_a_folder_or_the_shipped_cascade_is_found(tmp_path):
    assert find_forms(None, str(tiny_export())) == Forms(None, tiny_export())
    shipped = find_forms(None, None)
    assert shipped.file or shipped.folder
    with pytest.raises(ConfigError, match="both exported"):
        find_forms(str(tiny_export()), str(tiny_export()))
