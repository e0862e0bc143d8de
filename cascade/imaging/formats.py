"""Which files are images: decided by their first bytes, never by their names."""

from __future__ import annotations

from pathlib import PurePath

from cascade.errors import ImageError

HEAD_BYTES = 132
"""How many leading bytes :func:`identify` looks at."""

SUFFIXES = {
    ".jpg": "jpeg",
    ".jpeg": "jpeg",
    ".jpe": "jpeg",
    ".jfif": "jpeg",
    ".png": "png",
    ".gif": "gif",
    ".bmp": "bmp",
    ".tif": "tiff",
    ".tiff": "tiff",
    ".webp": "webp",
    ".dcm": "dicom",
    ".dicom": "dicom",
    ".heic": "heic",
    ".heif": "heic",
    ".hif": "heic",
    ".avif": "avif",
    ".jp2": "jpeg_2000",
    ".j2k": "jpeg_2000",
    ".j2c": "jpeg_2000",
    ".jpx": "jpeg_2000",
    ".jxl": "jpeg_xl",
}
"""File suffixes of images, each with the format that it promises."""

FORMATS = "JPEG, PNG, TIFF, BMP, WebP, GIF, HEIC, AVIF, JPEG 2000, JPEG XL and DICOM"
"""What cascade reads, in words."""

_SUPPORTED = (
    (b"\xff\xd8\xff", "jpeg"),
    (b"\x89PNG\r\n\x1a\n", "png"),
    (b"GIF87a", "gif"),
    (b"GIF89a", "gif"),
    (b"BM", "bmp"),
    (b"II*\x00", "tiff"),
    (b"MM\x00*", "tiff"),
    (b"II+\x00", "tiff"),
    (b"MM\x00+", "tiff"),
    (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "jpeg_2000"),
    (b"\xff\x4f\xff\x51", "jpeg_2000"),
    (b"\x00\x00\x00\x0cJXL \r\n\x87\n", "jpeg_xl"),
    (b"\xff\x0a", "jpeg_xl"),
)
_FOREIGN = (
    (b"%PDF", "a PDF document"),
    (b"8BPS", "a Photoshop document"),
    (b"%!PS", "PostScript"),
    (b"\xc5\xd0\xd3\xc6", "PostScript"),
    (b"<svg", "an SVG drawing"),
    (b"<?xml", "an XML document"),
    (b"<!doctype", "a web page"),
    (b"<html", "a web page"),
    (b"PK\x03\x04", "a ZIP archive"),
)
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIF_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"}
_ADVICE = f"cascade reads {FORMATS}"


def identify(head: bytes, name: str) -> str:
    """Name the image format of a file from its first :data:`HEAD_BYTES` bytes.

    Returns:
        One of the values of :data:`SUFFIXES`.

    Raises:
        ImageError: the file is empty, no image, or of a format that is not on the list.
    """
    if not head:
        raise ImageError(f"{name}: the file is empty")
    if head[8:10] == b"CR" and head[:4] == b"II*\x00":
        raise ImageError(f"{name}: is a raw camera file; export it as JPEG or PNG")
    kind = _kind(head)
    if kind is None:
        raise ImageError(f"{name}: {_describe_foreign(head)}")
    return kind


def _kind(head: bytes) -> str | None:
    for magic, kind in _SUPPORTED:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[128:132] == b"DICM":
        return "dicom"
    brands = _brands(head)
    if brands & _AVIF_BRANDS:
        return "avif"
    return "heic" if brands & _HEIF_BRANDS else None


def _brands(head: bytes) -> set[bytes]:
    """The main brand of an ISO media file, and those it says to be compatible with."""
    if head[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(head[:4], "big"), len(head))
    return {head[start : start + 4] for start in (8, *range(16, end - 3, 4))}


def _describe_foreign(head: bytes) -> str:
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    for magic, description in _FOREIGN:
        if head.startswith(magic) or text.startswith(magic.lower()):
            return f"is {description}, not an image; {_ADVICE}"
    return f"is not an image of a known format; {_ADVICE}"


def suffix_warning(name: str, kind: str) -> str | None:
    """Say so when a file's suffix promises another format than its bytes hold."""
    promised = SUFFIXES.get(PurePath(name).suffix.lower(), kind)
    if promised == kind:
        return None
    return f"named {PurePath(name).suffix} but holds {kind.upper().replace('_', ' ')} data"
