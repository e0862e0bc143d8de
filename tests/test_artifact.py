import json
import os
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from cascade.errors import DataError, ModelFileError
from cascade.models.artifact import (
    FORMAT,
    Artifact,
    check_tensors,
    merge_artifacts,
    read_artifact,
    read_document,
    tensors_digest,
    write_artifact,
)
from cascade.models.runtimes import model_identity
from cascade.models.segmenter import Segmenter
from cascade.pipeline import Cascade
from cascade.training.state import LAST, PREVIOUS, save_checkpoint
from cascade.version import __version__


def artifact(stage="segmenter", *, seed=0, **tensors):
    generator = np.random.default_rng(seed)
    tensors = tensors or {
        "network.weight": generator.normal(size=(4, 3, 2, 2)).astype(np.float32),
        "network.count": np.array(7, np.int64),
        "network.empty": np.zeros((0, 3), np.float32),
    }
    return Artifact(
        stages={stage: {"config": {"size": 64}}},
        tensors={f"{stage}.{name}": tensor for name, tensor in tensors.items()},
        provenance={stage: {"date": "2026-01-01", "settings": {"learning_rate": 0.001}}},
        metrics={stage: {"validation": {"iou": 0.5}}},
    )


@pytest.fixture
def path(tmp_path):
    return tmp_path / "model.safetensors"


def header_of(path):
    """The header as the file format defines it: eight bytes of length, then JSON."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), 8 + length


def rewrite_document(path, change):
    """Change the JSON document in a file's header and leave the tensors as they are."""
    content = path.read_bytes()
    header, start = header_of(path)
    document = json.loads(header["__metadata__"]["cascade"])
    changed = change(document)
    header["__metadata__"]["cascade"] = json.dumps(document if changed is None else changed)
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content[start:])


@given(
    shape=st.lists(st.integers(0, 3), max_size=4),
    kind=st.sampled_from(["float32", "float16", "float64", "int64", "uint8", "bool"]),
    data=st.data(),
)
@settings(max_examples=25, deadline=None)
def test_any_array_comes_back(tmp_path_factory, shape, kind, data):
    path = tmp_path_factory.mktemp("any") / "model.safetensors"
    size = int(np.prod(shape))
    content = data.draw(st.binary(min_size=size * 8, max_size=size * 8))
    tensor = np.frombuffer(content, np.uint8)[: size * np.dtype(kind).itemsize]
    tensor = (tensor % 2).astype(bool) if kind == "bool" else tensor.view(kind)
    tensor = tensor[:size].reshape(shape)
    write_artifact(path, artifact(any=tensor))
    found = read_artifact(path).tensors["segmenter.any"]
    assert found.dtype == tensor.dtype
    assert found.shape == tensor.shape
    assert found.tobytes() == tensor.tobytes()  # not-a-number included


def test_everything_comes_back_as_it_was_written(path):
    square = np.arange(12, dtype=np.float32).reshape(3, 4)
    written = artifact(turned=square.T, strided=square[:, ::2], count=np.array(7, np.int64))
    write_artifact(path, written)
    read = read_artifact(path)
    assert (read.stages, read.provenance, read.metrics) == (
        written.stages, written.provenance, written.metrics,
    )  # fmt: skip
    assert set(read.tensors) == set(written.tensors)
    for name, tensor in written.tensors.items():
        assert read.tensors[name].dtype == tensor.dtype
        np.testing.assert_array_equal(read.tensors[name], tensor)


def test_the_header_says_what_the_file_is(path):
    write_artifact(path, artifact())
    document = read_document(path)
    assert document["format"] == FORMAT
    assert document["version"] == __version__
    assert "Not a medical device" in document["intended_use"]
    assert document["tensors_sha256"] == tensors_digest(artifact().tensors)


def test_anybody_may_read_the_file(path):
    before = os.umask(0o077)
    try:
        write_artifact(path, artifact())
    finally:
        os.umask(before)
    assert path.stat().st_mode & 0o777 == 0o644


def test_the_header_is_read_without_the_tensors(path):
    write_artifact(path, artifact())
    _, start = header_of(path)
    content = path.read_bytes()
    path.write_bytes(content[:start] + bytes(len(content) - start))
    assert read_document(path)["stages"] == {"segmenter": {"config": {"size": 64}}}


@pytest.mark.parametrize("place", [0, 100, -1])
def test_one_flipped_bit_in_the_tensors_is_found(path, place):
    write_artifact(path, artifact())
    content = bytearray(path.read_bytes())
    _, start = header_of(path)
    content[place if place < 0 else start + place] ^= 0x01
    path.write_bytes(content)
    with pytest.raises(ModelFileError, match=r"model\.safetensors.*SHA-256"):
        read_artifact(path)


def test_the_digest_sees_names_types_and_shapes_too():
    values = np.arange(6, dtype=np.float32)
    digests = {
        tensors_digest({"a": values}),
        tensors_digest({"b": values}),
        tensors_digest({"a": values.view(np.int32)}),
        tensors_digest({"a": values.reshape(2, 3)}),
        tensors_digest({"a": values.reshape(3, 2)}),
        tensors_digest({"a": values[::-1]}),
        tensors_digest({"a": values[:3], "b": values[3:]}),
        tensors_digest({}),
    }
    assert len(digests) == 8
    assert tensors_digest({"a": values, "b": values}) == tensors_digest({"b": values, "a": values})


def test_a_truncated_file_is_refused_wherever_it_ends(path):
    write_artifact(path, artifact())
    content = path.read_bytes()
    _, start = header_of(path)
    for length in (0, 4, 8, start // 2, start, start + 10, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ModelFileError, match=r"model\.safetensors.*not a readable"):
            read_artifact(path)


def test_a_missing_file_a_folder_and_an_unknown_stage_are_refused(path):
    with pytest.raises(ModelFileError, match="no such model file"):
        read_document(path)
    with pytest.raises(ModelFileError, match=r"is a folder, such as that of an exported cascade"):
        read_document(path.parent)
    write_artifact(path, artifact("explainer"))
    with pytest.raises(ModelFileError, match="explainer"):
        read_document(path)
    with pytest.raises(DataError, match=path.name):
        write_artifact(path / "model.safetensors", artifact())


def test_a_pickle_is_refused_as_a_model(tmp_path):
    import torch

    path = tmp_path / "old.pth"
    torch.save({"weight": torch.zeros(2)}, path)
    with pytest.raises(ModelFileError, match=r"old\.pth.*pickled \.pth models are not accepted"):
        read_artifact(path)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [(None, "not written by cascade"), ({"format": "pt"}, "not written by cascade"),
     ({"cascade": "{not json"}, "not JSON")],
)  # fmt: skip
def test_safetensors_of_another_program_are_refused(path, metadata, words):
    save_file({"weight": np.zeros(2, np.float32)}, path, metadata=metadata)
    with pytest.raises(ModelFileError, match=words):
        read_artifact(path)


def test_another_format_is_refused_by_number(path):
    write_artifact(path, artifact())
    rewrite_document(path, lambda document: document.update(format=FORMAT + 1))
    with pytest.raises(ModelFileError, match=f"format {FORMAT + 1}.*reads format {FORMAT}"):
        read_document(path)


@pytest.mark.parametrize("key", ["stages", "provenance", "metrics", "tensors_sha256"])
def test_a_description_that_lacks_a_key_names_it(path, key):
    write_artifact(path, artifact())
    rewrite_document(path, lambda document: document.pop(key) and document)
    with pytest.raises(ModelFileError, match=f"incomplete description.*{key}"):
        read_document(path)


@pytest.mark.parametrize("content", [[], 3, {"format": FORMAT, "stages": []}])
def test_a_description_of_another_kind_is_refused(path, content):
    write_artifact(path, artifact())
    rewrite_document(path, lambda _: content)
    with pytest.raises(ModelFileError, match=r"model\.safetensors"):
        read_document(path)


def test_a_stage_that_is_needed_but_absent_is_named(path):
    write_artifact(path, artifact("segmenter"))
    with pytest.raises(ModelFileError, match="holds segmenter, but no classifier"):
        read_artifact(path, needs=("segmenter", "classifier"))


def test_two_stages_merge_into_one_file_and_come_apart_again(path):
    one, other = artifact("segmenter", seed=1), artifact("classifier", seed=2)
    write_artifact(path, merge_artifacts(one, other))
    both = read_artifact(path, needs=("segmenter", "classifier"))
    assert set(both.stages) == {"segmenter", "classifier"}
    assert both.provenance == {**one.provenance, **other.provenance}
    for stage, part in (("segmenter", one), ("classifier", other)):
        tensors, before = both.stage_tensors(stage), part.stage_tensors(stage)
        assert set(tensors) == set(before)
        np.testing.assert_array_equal(tensors["network.weight"], before["network.weight"])


def test_differences_are_listed_and_counted():
    expected = {f"layer{number:02}": (1, 2) for number in range(12)}
    found = {"layer00": (1, 2), "layer01": (2, 1), "surplus": (3,)}
    with pytest.raises(ModelFileError) as caught:
        check_tensors("m.safetensors", found, expected)
    message = str(caught.value)
    assert message.startswith("m.safetensors: 12 tensors do not fit the network: missing layer02")
    assert message.endswith("...")
    check_tensors("m.safetensors", expected, dict(expected))


def test_a_failed_write_keeps_the_file_that_was_there(path, monkeypatch):
    from safetensors import SafetensorError

    from cascade.models import artifact as module

    write_artifact(path, artifact(seed=1))
    before = path.read_bytes()

    def full_disk(tensors, target, metadata):
        target.write_bytes(b"half of it")
        raise SafetensorError("No space left on device")

    monkeypatch.setattr(module, "save_file", full_disk)
    with pytest.raises(ModelFileError, match=r"model\.safetensors.*No space left"):
        write_artifact(path, artifact(seed=2))
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == [path.name]


# --- the checkpoint of a training


@pytest.fixture
def run_folder(tmp_path):
    """A folder with both checkpoints of a training, and a model beside them."""
    state = {"network": {"weight": torch.zeros(3)}, "progress": {"epoch": 1}}
    save_checkpoint(tmp_path, state)
    save_checkpoint(tmp_path, state)
    write_artifact(tmp_path / "best.safetensors", artifact())
    return tmp_path


@pytest.mark.parametrize("name", [LAST, PREVIOUS])
@pytest.mark.parametrize(
    "read",
    [
        read_artifact,
        read_document,
        Segmenter.load,
        Cascade.load,
        model_identity,
    ],
)
def test_a_checkpoint_given_as_a_model_names_the_model_beside_it(run_folder, name, read):
    with pytest.raises(ModelFileError) as refused:
        read(run_folder / name)
    assert str(refused.value) == (
        f"{run_folder / name}: is a checkpoint of a training, from which --resume goes on, and no "
        f"model; its best model is {run_folder / 'best.safetensors'}"
    )


def test_a_checkpoint_without_a_model_beside_it_promises_none(run_folder):
    (run_folder / "best.safetensors").unlink()
    with pytest.raises(
        ModelFileError, match=r"is a checkpoint .*; there is no .*best\.safetensors"
    ):
        read_artifact(run_folder / LAST)
