"""Archives are read like the folder in them, and harm nothing."""

import contextlib
import io
import tarfile
import warnings
import zipfile

import layouts
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cascade.commands.datasets.prepare import main
from cascade.data.sources import archives
from cascade.data.sources.archives import unpacked
from cascade.data.sources.prepare import PrepareConfig, prepare
from cascade.errors import ConfigError, DataError

ENDINGS = [".zip", ".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz"]


def packed(path, files):
    """Write an archive of names and bytes, in this order."""
    if path.suffix == ".zip":
        with warnings.catch_warnings(), zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            warnings.simplefilter("ignore")  # of repeated names, which some tests want
            for name, data in files:
                archive.writestr(zipfile.ZipInfo(name), data, zipfile.ZIP_DEFLATED)
    else:
        kind = path.name.rpartition(".")[2].replace("tgz", "gz").replace("tar", "")
        with tarfile.open(path, f"w:{kind}") as archive:
            for name, data in files:
                entry = tarfile.TarInfo(name)
                entry.size = len(data)
                archive.addfile(entry, io.BytesIO(data))
    return path


def folder_files(root):
    return [
        (f"set/{path.relative_to(root)}", path.read_bytes())
        for path in sorted(root.rglob("*"))
        if path.is_file()
    ]


def read(path, beside):
    with unpacked(path, beside / "out") as folder:
        found = sorted(item for item in folder.rglob("*") if item.is_file())
        return {str(item.relative_to(folder)): item.read_bytes() for item in found}


def nothing_left(tmp_path):
    return not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_archive_gives_what_its_folder_gives(tmp_path, ending):
    for number in range(4):
        layouts.picture(tmp_path / "in" / ("benign", "malignant")[number % 2] / f"{number}.jpg")
    path = packed(tmp_path / f"set{ending}", folder_files(tmp_path / "in"))
    prepare("folders", tmp_path / "in", tmp_path / "one", PrepareConfig(test_fraction=0.5))
    prepare("folders", path, tmp_path / "two", PrepareConfig(test_fraction=0.5))
    for file in (tmp_path / "one").rglob("*.*"):
        if file.is_file() and file.name != "prepare.json":
            other = tmp_path / "two" / file.relative_to(tmp_path / "one")
            assert other.read_bytes() == file.read_bytes()
    assert nothing_left(tmp_path)


def test_command_reads_a_public_data_set_from_its_archive(tmp_path, capsys):
    layouts.ph2(tmp_path / "in")
    path = packed(tmp_path / "PH2.zip", folder_files(tmp_path / "in"))
    flags = ["--input", str(path), "--output", str(tmp_path / "out"), "--test_fraction", "0.5"]
    assert main(["ph2", *flags]) == 0
    assert "masks: 4 of 4" in capsys.readouterr().out


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("../x.jpg", "leads out"), ("a/../../x.jpg", "leads out"), ("/tmp/x.jpg", "absolute"),
        ("C:/x.jpg", "absolute"), ("..\\x.jpg", "leads out"), ("%2e%2e/x.jpg", "leads out"),
    ],
)  # fmt: skip
def test_a_path_that_leads_out_is_refused(tmp_path, ending, name, why):
    path = packed(tmp_path / f"a{ending}", [("ok.jpg", b"x"), (name, b"x")])
    with pytest.raises(DataError, match=rf"a{ending}: the path .* {why}|a{ending}: .*{why}"):
        read(path, tmp_path)
    assert sorted(item.name for item in tmp_path.iterdir()) == [path.name]


def test_links_and_devices_are_refused(tmp_path):
    link = zipfile.ZipInfo("link")
    link.external_attr = 0o120777 << 16
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr(link, "/etc/passwd")
    for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.FIFOTYPE, tarfile.CHRTYPE):
        with tarfile.open(tmp_path / f"{ord(kind)}.tar", "w") as archive:
            entry = tarfile.TarInfo("link")
            entry.type, entry.linkname = kind, "/etc/passwd"
            archive.addfile(entry)
    paths = [path for path in tmp_path.iterdir() if path.suffix in (".zip", ".tar")]
    assert len(paths) == 5
    for path in paths:
        with pytest.raises(DataError, match="link is a link or device"):
            read(path, tmp_path)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_an_archive_that_swells_or_holds_too_much_is_refused(tmp_path, monkeypatch, ending):
    path = packed(tmp_path / f"a{ending}", [("a.bmp", bytes(10**6)), ("b.bmp", bytes(10**6))])
    assert len(read(path, tmp_path)) == 2
    monkeypatch.setattr(archives, "MOST_FILES", 1)
    with pytest.raises(DataError, match="more than 1 files"):
        read(path, tmp_path)
    monkeypatch.setattr(archives, "MOST_FILES", 2)
    monkeypatch.setattr(archives, "_ALWAYS", 1000)
    with pytest.raises(DataError, match="more than 100 times its size"):
        read(path, tmp_path)
    assert nothing_left(tmp_path)


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_no_more_than_fits_on_the_disk_is_unpacked(tmp_path, monkeypatch, ending):
    path = packed(tmp_path / f"a{ending}", [("a.jpg", bytes(1000))])
    free = archives.shutil.disk_usage(tmp_path)._replace(free=999)
    monkeypatch.setattr(archives.shutil, "disk_usage", lambda folder: free)
    with pytest.raises(DataError, match="the disk has room for"):
        read(path, tmp_path)


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_two_files_of_one_name_are_refused(tmp_path, ending):
    path = packed(tmp_path / f"a{ending}", [("x/a.jpg", b"1"), ("x/a.jpg", b"2")])
    with pytest.raises(DataError, match=r"two files named a.jpg"):
        read(path, tmp_path)


@pytest.mark.parametrize("ending", [".zip", ".tar.gz"])
def test_what_systems_leave_behind_stays_packed(tmp_path, ending):
    junk = ["__MACOSX/._a.jpg", ".DS_Store", "x/._a.jpg"]
    files = [(name, b"x") for name in (*junk, "./x/a.jpg")]
    assert read(packed(tmp_path / f"a{ending}", files), tmp_path) == {"x/a.jpg": b"x"}


def test_paths_of_windows_are_folders(tmp_path):
    path = packed(tmp_path / "a.zip", [("x/a.jpg", b"x")])
    data = path.read_bytes().replace(b"x/a.jpg", b"x\\a.jpg")
    path.write_bytes(data)
    assert read(path, tmp_path) == {"x/a.jpg": b"x"}


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_damaged_archive_is_an_error(tmp_path, ending):
    path = tmp_path / f"a{ending}"
    path.write_bytes(b"no archive at all")
    with pytest.raises(DataError, match=rf"a{ending}: (is damaged|cannot be unpacked)"):
        read(path, tmp_path)
    packed(path, [("a.jpg", bytes(range(256)) * 40)])
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(DataError):
        read(path, tmp_path)
    assert nothing_left(tmp_path)


@given(st.binary(max_size=200), st.sampled_from([".zip", ".tar.gz"]), st.integers(0, 400))
def test_any_changed_byte_gives_an_error_or_the_files(tmp_path_factory, noise, ending, place):
    folder = tmp_path_factory.mktemp("noise")
    path = packed(folder / f"a{ending}", [("a.jpg", b"abc" * 50), ("b/c.csv", b"name")])
    data = path.read_bytes()
    path.write_bytes(data[:place] + noise + data[place + len(noise) :])
    with contextlib.suppress(DataError):
        read(path, folder)
    assert sorted(item.name for item in folder.iterdir()) == [path.name]


def test_encrypted_archive_is_named_so(tmp_path):
    path = packed(tmp_path / "a.zip", [("a.jpg", b"x")])
    data = bytearray(path.read_bytes())
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(bytes(data))
    with pytest.raises(DataError, match="is encrypted"):
        read(path, tmp_path)


def test_errors_name_the_archive_and_not_the_temporary_folder(tmp_path):
    path = packed(
        tmp_path / "a.zip", [("x/a.jpg", b"x"), ("x/list.csv", b"image,Befund\na,y\na,n\n")]
    )
    with pytest.raises(
        DataError, match=r"a.zip/x/list.csv: no column .* \(Befund: n, y\)"
    ) as caught:
        prepare("table", path, tmp_path / "out")
    assert ".unpacked" not in str(caught.value)


def test_links_to_an_unpacked_archive_would_dangle(tmp_path):
    path = packed(tmp_path / "a.zip", [("benign/a.jpg", b"x")])
    with pytest.raises(ConfigError, match="--link symlink"):
        prepare("folders", path, tmp_path / "out", PrepareConfig(link="symlink"))
