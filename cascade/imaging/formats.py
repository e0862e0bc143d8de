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
    ".avif": "avif",
}
"""File suffixes of images; HEIC and AVIF are known so that they get a clear message."""

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
    (b"\x00\x00\x00\x0cjP  ", "a JPEG 2000 image"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 image"),
    (b"\x00\x00\x00\x0cJXL ", "a JPEG XL image"),
    (b"\xff\x0a", "a JPEG XL image"),
)
_PICTURE_BRANDS = {b"avif": "AVIF", b"avis": "AVIF"} | dict.fromkeys(
    (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"), "HEIC"
)
_ADVICE = "cascade reads JPEG, PNG, TIFF, BMP, WebP, GIF and DICOM"


def identify(head: bytes, name: str) -> str:
    """Name the image format of a file from its first :data:`HEAD_BYTES` bytes.

    Returns:
        ``jpeg``, ``png``, ``gif``, ``bmp``, ``tiff``, ``webp`` or ``dicom``.

    Raises:
        ImageError: the file is empty, no image, or of a format that is not on the list.
    """
    if not head:
        raise ImageError(f"{name}: the file is empty")
    if head[8:10] == b"CR" and head[:4] == b"II*\x00":
        raise ImageError(f"{name}: is a raw camera file; export it as JPEG or PNG")
    for magic, kind in _SUPPORTED:
        if head.startswith(magic):
            return kind
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "webp"
    if head[128:132] == b"DICM":
        return "dicom"
    raise ImageError(f"{name}: {_describe_foreign(head)}")


def _describe_foreign(head: bytes) -> str:
    brand = _PICTURE_BRANDS.get(head[8:12]) if head[4:8] == b"ftyp" else None
    if brand:
        return f"{brand} images are not supported; export the image as JPEG or PNG"
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
    return f"named {PurePath(name).suffix} but holds {kind.upper()} data"
