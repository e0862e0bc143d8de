"""Inputs of a run: what a user named becomes one path or URI each, on any file system."""

from __future__ import annotations

import uuid
from pathlib import Path

import numpy as np
import pytest
from cluster_runs import plan_of
from PIL import Image
from s3_server import s3_server

from cascade.errors import ConfigError, DataError, MissingExtraError
from cascade.imaging import NamedBytes, read_image

pytest.importorskip("pyarrow")
pytest.importorskip("fsspec")

from cascade.cluster.fetch import fetched
from cascade.cluster.inputs import Planned
from cascade.cluster.storage import (
    exists,
    file_system,
    files_below,
    is_uri,
    read_bytes,
    remove,
    write_bytes,
)


@pytest.fixture
def png(tmp_path, lesion):
    """The bytes of an image."""
    Image.fromarray(lesion.image).save(tmp_path / "image.png")
    return (tmp_path / "image.png").read_bytes()


@pytest.fixture(scope="module")
def s3():
    """A bucket of a server on this machine."""
    from pyarrow.fs import S3FileSystem

    from cascade.cluster import storage

    server = s3_server()
    server.start()
    host, port = server.get_host_and_port()
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_REGION": "eu-west-1",
            "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
        }.items():  # fmt: skip
            patch.setenv(name, value)
        S3FileSystem(
            region="eu-west-1", endpoint_override=f"http://{host}:{port}",
            allow_bucket_creation=True,
        ).create_dir("bucket")  # fmt: skip
        yield "s3://bucket"
    storage._opened.cache_clear()
    server.stop()


@pytest.fixture(params=["memory", "s3"])
def place(request):
    """A folder that is not on this machine's disk."""
    if request.param == "s3":
        return request.getfixturevalue("s3") + "/" + uuid.uuid4().hex
    return f"memory://{uuid.uuid4().hex}"


@pytest.fixture
def remote_photos(place, png):
    """Two images, one more in a folder below, and a file that is none."""
    for name in ("b.png", "a 1.png", "deep/c.png", "notes.md"):
        write_bytes(f"{place}/{name}", png)
    return place


def paths(planned):
    assert all(item.problem is None for item in planned)
    return [item.path for item in planned]


# --- files


def test_a_file_is_written_read_found_and_removed(place):
    write_bytes(f"{place}/folder/file.txt", b"first")
    write_bytes(f"{place}/folder/file.txt", b"second")
    assert read_bytes(f"{place}/folder/file.txt") == b"second"
    assert read_bytes(f"{place}/folder/file.txt", most=3) == b"sec"
    assert list(files_below(f"{place}/folder", recursive=True)) == [f"{place}/folder/file.txt"]
    remove(f"{place}/folder/file.txt")
    remove(f"{place}/folder/file.txt")
    assert not exists(f"{place}/folder/file.txt")
    with pytest.raises(DataError, match=r"file\.txt: does not exist"):
        read_bytes(f"{place}/folder/file.txt")


def test_a_local_file_is_replaced_at_once(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file.txt"
    write_bytes(str(path), b"old")
    monkeypatch.setattr("pathlib.Path.replace", lambda *_: (_ for _ in ()).throw(OSError("full")))
    with pytest.raises(DataError, match="could not be written"):
        write_bytes(str(path), b"new")
    assert path.read_bytes() == b"old"
    assert list(path.parent.iterdir()) == [path]


def test_an_unknown_scheme_is_an_error():
    with pytest.raises(ConfigError, match="nonsense://"):
        file_system("nonsense://bucket/file")


def test_a_missing_package_is_named(monkeypatch):
    import fsspec

    def refuse(_):
        raise ImportError("Install adlfs to access Azure")

    monkeypatch.setattr(fsspec, "filesystem", refuse)
    with pytest.raises(MissingExtraError, match="adlfs"):
        file_system("az://container/file")


@pytest.mark.parametrize(
    ("text", "uri"),
    [("s3://b/k", True), ("hf://datasets/a/b", True), ("C:/photos", False), ("a/b.jpg", False),
     ("photos://", True), ("/a:b//c", False)],
)  # fmt: skip
def test_a_uri_is_told_from_a_path(text, uri):
    assert is_uri(text) is uri


# --- what is planned


def test_a_local_folder_gives_what_a_run_without_a_cluster_finds(photos, tmp_path):
    (tmp_path / "photos" / "gone.png").symlink_to("nowhere")
    planned = plan_of([photos, tmp_path / "none.jpg"])
    assert [item.path for item in planned] == [
        *(str(photos / name) for name in ("a.png", "b.png", "c.jpg", "gone.png")),
        str(tmp_path / "none.jpg"),
    ]
    assert [item.problem is None for item in planned] == [True, True, True, False, False]
    assert plan_of([f"file://{photos}"]) == planned[:4]


def test_a_remote_folder_gives_its_images_in_order(remote_photos):
    found = paths(plan_of([remote_photos]))
    assert found == [f"{remote_photos}/{name}" for name in ("a 1.png", "b.png", "deep/c.png")]
    assert paths(plan_of([remote_photos], recursive=False)) == found[:2]


def test_a_remote_pattern_gives_the_images_that_match(remote_photos):
    assert paths(plan_of([f"{remote_photos}/**/*.png"])) == paths(plan_of([remote_photos]))
    assert paths(plan_of([f"{remote_photos}/b*"])) == [f"{remote_photos}/b.png"]
    (none,) = plan_of([f"{remote_photos}/x*.png"])
    assert none == Planned(f"{remote_photos}/x*.png", "matches no image file")


def test_a_named_remote_file_is_an_input_whatever_it_is(remote_photos):
    assert paths(plan_of([f"{remote_photos}/notes.md"])) == [f"{remote_photos}/notes.md"]


def test_a_list_names_paths_from_its_own_folder_and_uris(tmp_path):
    (tmp_path / "list.txt").write_text("a.jpg\n\n /absolute/b.jpg \ns3://bucket/c.jpg\n")
    assert paths(plan_of([tmp_path / "list.txt"])) == [
        str(tmp_path / "a.jpg"), "/absolute/b.jpg", "s3://bucket/c.jpg",
    ]  # fmt: skip


def test_a_remote_list_and_a_remote_table_name_files_beside_them(remote_photos):
    write_bytes(f"{remote_photos}/list.txt", b"b.png\nmemory://other/d.png\n")
    write_bytes(f"{remote_photos}/table.csv", b"path,class\nb.png,benign\n")
    beside = f"{remote_photos}/b.png"
    assert paths(plan_of([f"{remote_photos}/list.txt"])) == [beside, "memory://other/d.png"]
    assert paths(plan_of([f"{remote_photos}/table.csv"])) == [beside]


def test_a_local_table_may_name_uris(tmp_path):
    (tmp_path / "table.csv").write_text("path\nb.png\ns3://bucket/c.jpg\n")
    assert paths(plan_of([tmp_path / "table.csv"])) == [
        str(tmp_path / "b.png"), "s3://bucket/c.jpg",
    ]  # fmt: skip


def test_a_table_of_a_data_set_is_read_as_without_a_cluster(dataset_folder):
    found = paths(plan_of([dataset_folder / "test_data.csv"]))
    assert len(found) == 4
    assert all(Path(path).is_file() for path in found)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("list.txt", b"\n", "lists no paths"),
        ("list.txt", b"\xff\xfe\x00", "not UTF-8"),
        ("table.csv", b"name\na.png\n", "needs a column 'path'"),
        ("rows.parquet", b"PAR1 but not really", "no Parquet file"),
    ],
)
def test_an_unusable_list_is_an_error_that_names_it(place, name, content, words):
    write_bytes(f"{place}/{name}", content)
    with pytest.raises(DataError, match=words) as caught:
        plan_of([f"{place}/{name}"])
    assert f"{place}/{name}" in str(caught.value)


# --- Parquet of images


def write_images(path, images, *, column="bytes", row_group_size=2, **more):
    import io

    import pyarrow
    from pyarrow.parquet import write_table

    buffer = io.BytesIO()
    table = pyarrow.table({column: images, **more})
    write_table(table, buffer, row_group_size=row_group_size)
    write_bytes(path, buffer.getvalue())


def test_each_row_of_parquet_files_is_an_input(place, png):
    for name in ("one", "two"):
        write_images(f"{place}/{name}.parquet", [png] * 3)
    planned = plan_of([f"{place}/*.parquet"])
    assert [item.place for item in planned] == [
        f"{place}/{name}.parquet#{row}" for name in ("one", "two") for row in range(3)
    ]


def test_parquet_without_images_is_an_error_that_lists_its_columns(place):
    write_images(f"{place}/rows.parquet", ["a"], column="text")
    with pytest.raises(DataError, match=r"no column bytes or image .*; found text"):
        plan_of([f"{place}/rows.parquet"])


@pytest.mark.parametrize("shard", [slice(0, 3), slice(1, 4), slice(3, 7), slice(6, 7)])
def test_any_part_of_a_parquet_file_gives_its_own_rows(place, shard):
    path = f"{place}/rows.parquet"
    write_images(path, [b"%d" % n for n in range(7)], name=[f"{n}.png" for n in range(7)])
    planned = plan_of([path])
    items = list(fetched(planned[shard], most=99))
    expected = range(7)[shard]
    assert [item.source.data for item in items] == [b"%d" % n for n in expected]
    assert [item.name for item in items] == [f"{n}.png" for n in expected]
    assert [item.path for item in items] == [f"{path}#{n}" for n in expected]


def test_images_of_hugging_face_data_sets_are_understood(place, png):
    path = f"{place}/rows.parquet"
    write_images(path, [{"bytes": png, "path": "x/y.png"}, {"bytes": None, "path": "z.png"}],
                 column="image")  # fmt: skip
    good, bad = fetched(plan_of([path]), most=99)
    assert (good.name, good.source) == ("y.png", NamedBytes(png, "x/y.png"))
    assert bad.problem == "the row holds no bytes of an image"


def test_a_parquet_file_that_changed_gives_problems_and_no_other_rows(place, png):
    path = f"{place}/rows.parquet"
    write_images(path, [png] * 4)
    planned = plan_of([path])
    write_images(path, [png] * 2)
    items = list(fetched(planned[1:], most=10**6))
    assert [item.path for item in items] == [f"{path}#{n}" for n in (1, 2, 3)]
    assert items[0].problem is None
    assert "fewer rows" in items[1].problem
    remove(path)
    assert [item.problem for item in fetched(planned, most=99)] == ["does not exist"] * 4


def test_the_same_parquet_file_twice_gives_its_rows_twice(place):
    path = f"{place}/rows.parquet"
    write_images(path, [b"0", b"1"])
    items = fetched(plan_of([path, path]), most=9)
    assert [item.source.data for item in items] == [b"0", b"1", b"0", b"1"]


# --- content


def test_remote_files_come_in_order_with_problems_in_their_places(remote_photos, png):
    names = ["b.png", "none.png", "a 1.png"]
    items = list(fetched([Planned(f"{remote_photos}/{name}") for name in names], most=10**6))
    assert [item.name for item in items] == names
    assert [item.problem for item in items] == [None, "does not exist", None]
    assert items[0].source == NamedBytes(png, f"{remote_photos}/b.png")


def test_a_file_that_fails_once_is_asked_for_again(monkeypatch, png):
    from cascade.cluster import fetch

    answers = [DataError("memory://x/a.png: connection reset"), png]

    def read(name, *, most):
        answer = answers.pop(0)
        if isinstance(answer, DataError):
            raise answer
        return answer

    monkeypatch.setattr(fetch, "read_bytes", read)
    monkeypatch.setattr(fetch, "_PAUSES_S", (0.0,))
    (item,) = fetched([Planned("memory://x/a.png")], most=99)
    assert item.source.data == png
    answers[:] = [DataError("memory://x/a.png: connection reset")] * 2
    (item,) = fetched([Planned("memory://x/a.png")], most=99)
    assert item.problem == "connection reset"


def test_named_bytes_are_read_as_the_file_of_that_name_would_be(tmp_path, png):
    path = tmp_path / "image.jpg"  # promises another format
    for data in (png, png[:50], b"", b"no image"):
        path.write_bytes(data)
        results = []
        for source in (path, NamedBytes(data, str(path))):
            try:
                image = read_image(source)
                results.append((image.name, image.warnings, image.pixels.tobytes()))
            except DataError as error:
                results.append((type(error), str(error)))
        assert results[0] == results[1]
    assert read_image(NamedBytes(png, "s3://bucket/x.jpg")).warnings
    assert np.array_equal(read_image(NamedBytes(png, "x.png")).pixels, read_image(png).pixels)
