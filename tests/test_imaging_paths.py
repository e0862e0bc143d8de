"""Finding inputs among whatever lies in a folder, and naming results after them."""

import os
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from cascade.imaging import FoundFile, expand_sources, iter_image_paths, safe_stem


def touch(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"")
    return path


def names(found, root):
    return [(str(item.path.relative_to(root)), bool(item.problem)) for item in found]


def test_folder_gives_its_pictures_sorted_and_recursively(tmp_path):
    for name in ("b.jpg", "a.PNG", "deep/c.tif", "notes.txt", ".hidden.jpg", "._a.jpg", "z.heic"):
        touch(tmp_path / name)
    expected = [("a.PNG", False), ("b.jpg", False), ("deep/c.tif", False), ("z.heic", False)]
    assert names(expand_sources([tmp_path]), tmp_path) == expected
    flat = [item for item in expected if "deep" not in item[0]]
    assert names(expand_sources([tmp_path], recursive=False), tmp_path) == flat


def test_picture_without_suffix_is_found_by_its_bytes(tmp_path):
    Image.new("RGB", (40, 40)).save(tmp_path / "IM0001", "PNG")
    touch(tmp_path / "README")
    assert names(iter_image_paths(tmp_path), tmp_path) == [("IM0001", False)]


def test_named_files_are_always_given_back(tmp_path):
    text, missing = touch(tmp_path / "notes.txt"), tmp_path / "missing.jpg"
    assert list(expand_sources([text, str(missing)])) == [
        FoundFile(text),
        FoundFile(missing, "does not exist"),
    ]


def test_pattern(tmp_path):
    for name in ("b.jpg", "a.jpg", "c.png", "deep/d.jpg", "notes.txt", "[x].jpg"):
        touch(tmp_path / name)
    found = names(expand_sources([f"{tmp_path}/*.jpg"]), tmp_path)
    assert found == [("[x].jpg", False), ("a.jpg", False), ("b.jpg", False)]
    deep = names(expand_sources([f"{tmp_path}/**/*"]), tmp_path)
    assert len(deep) == 5
    assert names(expand_sources([tmp_path / "[x].jpg"]), tmp_path) == [("[x].jpg", False)]
    (nothing,) = expand_sources([f"{tmp_path}/*.webp"])
    assert "no image" in nothing.problem


def test_empty_folder_is_reported(tmp_path):
    (found,) = expand_sources([tmp_path])
    assert "without images" in found.problem


def test_pipes_devices_and_links_come_with_their_reason_and_never_hang(tmp_path):
    touch(tmp_path / "good.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "device.jpg").symlink_to("/dev/zero")
    (tmp_path / "dangling.jpg").symlink_to("nowhere.jpg")
    (tmp_path / "self.jpg").symlink_to("self.jpg")
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "up").symlink_to(tmp_path, target_is_directory=True)
    started = time.monotonic()
    found = {item.path.name: item.problem for item in expand_sources([tmp_path])}
    assert time.monotonic() - started < 1
    assert found.pop("good.jpg") is None
    words = {
        "pipe.jpg": "pipe",
        "device.jpg": "device",
        "dangling.jpg": "does not exist",
        "self.jpg": "symbolic link",
        "up": "link back",
    }
    assert found.keys() == words.keys()
    for name, word in words.items():
        assert word in found[name]


def test_folder_that_cannot_be_listed_is_reported(tmp_path, monkeypatch):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "listdir", refuse)
    (found,) = expand_sources([tmp_path])
    assert "Permission denied" in found.problem


def test_search_is_lazy(tmp_path):
    touch(tmp_path / "a.jpg")
    stream = expand_sources(iter([tmp_path, "later.jpg"]))
    assert next(stream).path.name == "a.jpg"
    touch(tmp_path / "later" / "b.jpg")
    assert next(stream).problem == "does not exist"


@pytest.mark.parametrize(
    ("name", "stem"), [("folder/皮膚 1.png", "皮膚 1"), ("a.b.jpg", "a.b"), ("C:\\x\\y.png", "y")]
)
def test_plain_names_stay(name, stem):
    assert safe_stem(name) == stem


@pytest.mark.parametrize("name", ["-rf.jpg", "../etc/passwd\0", "🙂.png", "con.jpg", ""])
def test_dangerous_names_are_changed_and_kept_apart(name):
    stem = safe_stem(name)
    assert stem != safe_stem(name + "x.jpg")
    assert stem[-9] == "_"
    assert stem[0] not in "-."


@given(st.text(max_size=300))
def test_safe_stem_is_always_a_harmless_file_name(name):
    stem = safe_stem(name)
    assert stem
    assert stem == stem.strip()
    assert len(stem.encode()) <= 140
    assert stem.isprintable()
    assert not set(stem) & set('/\\:*?"<>|%\0\n')
    assert stem[0] not in "-."
    assert safe_stem(stem + ".png") == stem
