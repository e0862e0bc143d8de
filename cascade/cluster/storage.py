"""Files on any file system, named by a local path or by a URI such as ``s3://bucket/folder``."""

from __future__ import annotations

import contextlib
import functools
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from cascade.errors import ConfigError, DataError, MissingExtraError
from cascade.files import atomic_path

_URI = re.compile(r"([a-z][a-z0-9+.-]+)://(.*)", re.DOTALL)
_ONE_PROCESS = ("memory",)
MISSING = "needs pyarrow and fsspec: pip install '.[ray]'"


def is_uri(text: str) -> bool:
    """Whether this names a file by scheme, as in ``s3://``; a local path does not."""
    return _URI.match(text) is not None


def local_path(text: str) -> str:
    """A local path as it is, and ``file://`` URIs as the paths that they name."""
    return text.removeprefix("file://") if text.startswith("file://") else text


def absolute(text: str) -> str:
    """A URI as it is, a local path from the root on."""
    text = local_path(text)
    return text if is_uri(text) else os.fspath(Path(text).absolute())


def seen_by_one_process(text: str) -> bool:
    """Whether other processes cannot see what is there."""
    return text.partition("://")[0] in _ONE_PROCESS


def joined(folder: str, *names: str) -> str:
    """A path below a folder, local or not."""
    return "/".join([folder.rstrip("/") or "/", *names])


def file_system(text: str) -> tuple[Any, str]:
    """The file system (fsspec's interface) behind a path or URI, and the path on it.

    S3 and Google Cloud Storage are reached through pyarrow; ``AWS_ENDPOINT_URL`` names another
    server than Amazon's. All other schemes are fsspec's, some of which need one more package.

    Raises:
        MissingExtraError: a package is missing.
        ConfigError: the scheme is unknown.
    """
    match = _URI.match(local_path(text))
    if match is None:
        return _opened("file", ""), absolute(text)
    scheme, rest = match[1], match[2]
    bucket = rest.partition("/")[0] if scheme in ("s3", "gs", "gcs") else ""
    return _opened(scheme, bucket), rest


@functools.cache
def _opened(scheme: str, bucket: str) -> Any:
    try:
        import fsspec
        from fsspec.implementations.arrow import ArrowFSWrapper
        from pyarrow import fs
    except ImportError as error:
        raise MissingExtraError(f"files on other file systems: this {MISSING}") from error
    try:
        if scheme == "s3":
            return ArrowFSWrapper(_s3(bucket))
        if scheme in ("gs", "gcs"):
            return ArrowFSWrapper(fs.FileSystem.from_uri(f"gs://{bucket}")[0])
        return fsspec.filesystem(scheme)
    except ImportError as error:
        raise MissingExtraError(f"{scheme}://: {error} (pip install it)") from error
    except ValueError as error:
        raise ConfigError(f"{scheme}://: {error}") from error
    except OSError as error:
        raise DataError(f"{scheme}://{bucket}: cannot be reached ({error})") from error


def _s3(bucket: str) -> Any:
    """Keys come from where the AWS tools look for them, too."""
    from pyarrow import fs

    variables = os.environ
    endpoint = variables.get("AWS_ENDPOINT_URL_S3") or variables.get("AWS_ENDPOINT_URL")
    region = variables.get("AWS_REGION") or variables.get("AWS_DEFAULT_REGION")
    if region is None and endpoint is None:
        region = fs.resolve_s3_region(bucket)
    return fs.S3FileSystem(region=region, endpoint_override=endpoint)


def _as_uri(text: str, path: str) -> str:
    """A path of a listing, named as its folder was."""
    match = _URI.match(local_path(text))
    return path if match is None else f"{match[1]}://{path.lstrip('/')}"


def files_below(folder: str, *, recursive: bool) -> Iterator[str]:
    """The files in a folder, sorted.

    Raises:
        DataError: the folder cannot be listed.
    """
    system, path = file_system(folder)
    depth = None if recursive else 1
    with _named(folder):
        found = sorted(system.find(path, maxdepth=depth))
    return (_as_uri(folder, item) for item in found)


def files_matching(pattern: str) -> Iterator[str]:
    """The files that match a pattern such as ``s3://bucket/**/*.jpg``, sorted.

    Raises:
        DataError: the folders cannot be listed, or the pattern is none.
    """
    system, path = file_system(pattern)
    with _named(pattern):
        found = system.glob(path, detail=True)
    files = sorted(name for name, about in found.items() if about["type"] == "file")
    return (_as_uri(pattern, item) for item in files)


def is_folder(text: str) -> bool:
    """Whether there is a folder of that name."""
    system, path = file_system(text)
    with _named(text):
        return bool(system.isdir(path))


def exists(text: str) -> bool:
    """Whether there is a file of that name."""
    system, path = file_system(text)
    with _named(text):
        return bool(system.isfile(path))


def opened(text: str) -> Any:
    """A file, open for reading.

    Raises:
        DataError: it cannot be opened.
    """
    system, path = file_system(text)
    with _named(text):
        return system.open(path, "rb")


def read_bytes(text: str, *, most: int | None = None) -> bytes:
    """All of a file, or its first ``most`` bytes.

    Raises:
        DataError: it cannot be read.
    """
    with opened(text) as file, _named(text):
        return bytes(file.read(most))


def write_bytes(text: str, data: bytes) -> None:
    """Write a file whole or not at all, in the place of an earlier one.

    Local files are renamed into their place; an object of a store appears when it is complete.

    Raises:
        DataError: it cannot be written.
    """
    system, path = file_system(text)
    if not is_uri(local_path(text)):
        with atomic_path(path) as temporary:
            temporary.write_bytes(data)
        return
    with _named(text):
        system.pipe_file(path, data)


def remove(text: str) -> None:
    """Remove a file if it is there."""
    system, path = file_system(text)
    with _named(text):
        if system.isfile(path):
            system.rm_file(path)


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Turn the errors of a file system into one that names the file."""
    try:
        yield
    except FileNotFoundError as error:
        raise DataError(f"{name}: does not exist") from error
    except (OSError, ValueError) as error:
        raise DataError(f"{name}: {error}") from error
