"""DICOM images, behind the extra ``dicom``.

Nothing about the patient may reach a message or a log. Only the tags that describe pixels are
read; and because a damaged length can make one of these swallow its neighbours, pydicom's habit of
quoting values in warnings is switched off, and the text of its errors is never passed on.

One frame, 8 or 16 bits, RGB, YBR, palette or monochrome; the first window of the file is
applied. The transfer syntaxes are those of pydicom and pylibjpeg, and deflated files.
"""

from __future__ import annotations

import contextlib
import io
import struct
import threading
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from cascade.errors import CascadeError, ImageError, MissingExtraError
from cascade.imaging.codecs import jpeg_2000
from cascade.imaging.damage import DECODER_ERRORS

_SHAPE_TAGS = ["Rows", "Columns", "NumberOfFrames", "SamplesPerPixel", "BitsAllocated"]
_PIXEL_TAGS = [
    *_SHAPE_TAGS,
    "BitsStored",
    "HighBit",
    "PixelRepresentation",
    "PhotometricInterpretation",
    "PlanarConfiguration",
    "RescaleSlope",
    "RescaleIntercept",
    "RescaleType",
    "ModalityLUTSequence",
    "WindowCenter",
    "WindowWidth",
    "VOILUTFunction",
    "VOILUTSequence",
    "ICCProfile",
    "PixelData",
    "ExtendedOffsetTable",
    "ExtendedOffsetTableLengths",
    *(
        f"{colour}PaletteColorLookupTable{part}"
        for colour in ("Red", "Green", "Blue")
        for part in ("Descriptor", "Data")
    ),
]
_NATIVE = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
_DEFLATED = b"1.2.840.10008.1.2.1.99"
_INFLATED = b"1.2.840.10008.1.2.1\0\0\0"
_GROUP_LENGTH = b"\x02\0\0\0UL\x04\0"
_MOST_BESIDE_PIXELS = 16_000_000
_RLE = "1.2.840.10008.1.2.5"
_JPEG_FAMILY = "1.2.840.10008.1.2.4."
_VIDEO = tuple(f"{_JPEG_FAMILY}{number}" for number in range(100, 200))
_COLOURS = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_ICT", "YBR_RCT")
_GRAYS = ("MONOCHROME1", "MONOCHROME2")
_REFERRED = (
    "SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "Modality",
)  # fmt: skip
_MAY_BE_EMPTY = (
    "PatientName", "PatientID", "PatientBirthDate", "PatientSex", "StudyDate", "StudyTime",
    "AccessionNumber", "StudyID", "ReferringPhysicianName",
)  # fmt: skip
_SEXES = ("", "M", "F", "O")
_LOCK = threading.Lock()  # pydicom's validation is a global setting


@contextlib.contextmanager
def quietly(name: str, damage: str = "is a damaged DICOM file") -> Iterator[None]:
    """Work on a DICOM file without a word about its contents, whatever goes wrong.

    Args:
        name: of the file, for messages.
        damage: what is said about any error of pydicom.

    Raises:
        ImageError: pydicom raised an error.
        MissingExtraError: pydicom is not installed.
    """
    try:
        import pydicom
        from pydicom.config import disable_value_validation
        from pydicom.errors import BytesLengthException
    except ImportError as error:
        raise MissingExtraError(
            f"{name}: reading DICOM needs more packages; run: pip install 'cascade[dicom]'"
        ) from error
    damaged = (
        *DECODER_ERRORS,
        AttributeError,
        BytesLengthException,
        pydicom.errors.InvalidDicomError,
    )
    with _LOCK, disable_value_validation():
        try:
            yield
        except CascadeError:
            raise
        except damaged:
            raise ImageError(f"{name}: {damage}") from None  # the error may quote a name


def read_dicom_shape(data: bytes, name: str) -> tuple[int, int]:
    """``(H, W)`` of a DICOM file that holds one frame.

    Raises:
        ImageError: the file is damaged, holds no image, or several frames.
        MissingExtraError: pydicom is not installed.
    """
    with quietly(name):
        dataset = _read(data, name, tags=_SHAPE_TAGS, stop_before_pixels=True)
        rows, columns = dataset.get("Rows"), dataset.get("Columns")
        if not rows or not columns:
            raise ImageError(f"{name}: this DICOM file holds no image")
        if int(dataset.get("NumberOfFrames") or 1) > 1:
            raise ImageError(f"{name}: this DICOM file holds several frames; export one of them")
        return int(rows), int(columns)


def decode_dicom(data: bytes, name: str) -> tuple[np.ndarray, bytes | None]:
    """Decode a DICOM file whose size has passed the limits.

    Returns:
        ``(H, W)`` or ``(H, W, 3)`` uint8, gray or RGB, and the ICC profile of colours.

    Raises:
        ImageError: pixels are missing, damaged or of a kind that is not supported.
        MissingExtraError: a library for this file is not installed.
    """
    with quietly(name):
        dataset = _read(data, name, tags=_PIXEL_TAGS)
        _check_kind(dataset, name)
        _check_frame(dataset, name)
        values = _pixels(dataset, name)
        if values.shape[:2] != (dataset.Rows, dataset.Columns):
            raise ImageError(f"{name}: is damaged, its size is not what its header says")
        pixels = _eight_bits(values, dataset)
        return pixels, dataset.get("ICCProfile") or None if pixels.ndim == 3 else None


def read_instance(data: bytes, name: str) -> Any:
    """Everything of a DICOM file but its pixels, as results need that refer to it.

    Returns:
        The dataset, in UTF-8, with empty values where what has to be there but may be empty
        (type 2) is missing.

    Raises:
        ImageError: the file is damaged, or lacks what others have to refer to.
        MissingExtraError: pydicom is not installed.
    """
    with quietly(name):
        dataset = _read(data, name, tags=[], stop_before_pixels=True)
        missing = [keyword for keyword in _REFERRED if not dataset.get(keyword)]
        if missing:
            raise ImageError(f"{name}: has no {' and no '.join(missing)} to refer to")
        _decode_text(dataset, name)
        for keyword in _MAY_BE_EMPTY:
            if keyword not in dataset:
                setattr(dataset, keyword, "")
        _check_copied(dataset, name)
        return dataset


def _decode_text(dataset: Any, name: str) -> None:
    """To UTF-8, or an error where a name would come out other than it is."""
    from pydicom.charset import python_encoding

    declared = dataset.get("SpecificCharacterSet") or ""
    for charset in [declared] if isinstance(declared, str) else declared:
        if charset not in python_encoding:
            raise ImageError(f"{name}: its SpecificCharacterSet is none that DICOM allows")
    dataset.decode()
    for keyword in _MAY_BE_EMPTY:
        if "\ufffd" in str(dataset.get(keyword, "")):
            raise ImageError(f"{name}: its {keyword} is not in its SpecificCharacterSet")
    dataset.SpecificCharacterSet = "ISO_IR 192"


def _check_copied(dataset: Any, name: str) -> None:
    """Refuse what no other file may repeat, naming the attribute but not its value."""
    from pydicom.valuerep import DA, TM

    if (dataset.PatientSex or "") not in _SEXES:
        raise ImageError(f"{name}: its PatientSex is none of M, F and O")
    for keyword, kind in (("PatientBirthDate", DA), ("StudyDate", DA), ("StudyTime", TM)):
        try:
            kind(dataset.get(keyword) or "")
        except ValueError:
            raise ImageError(f"{name}: its {keyword} is none that DICOM allows") from None


def _check_kind(dataset: Any, name: str) -> None:
    if "PixelData" not in dataset:
        raise ImageError(f"{name}: this DICOM file holds no PixelData")
    colours = dataset.get("PhotometricInterpretation")
    samples = dataset.get("SamplesPerPixel")
    if colours in _COLOURS:
        fits = samples == 3
    else:
        fits = samples == 1 and colours in (*_GRAYS, "PALETTE COLOR")
    if not fits or dataset.get("BitsAllocated") not in (8, 16):
        known = ", ".join((*_COLOURS, "PALETTE COLOR", *_GRAYS))
        raise ImageError(
            f"{name}: this kind of DICOM pixels is not supported; export it with 8 or 16 bits as "
            f"one of {known}"
        )


def _eight_bits(values: np.ndarray, dataset: Any) -> np.ndarray:
    colours = dataset.PhotometricInterpretation
    if colours in _GRAYS:
        gray = _windowed(values, dataset)
        return 255 - gray if colours == "MONOCHROME1" else gray
    if colours == "PALETTE COLOR":
        from pydicom.pixels import apply_color_lut

        coloured = apply_color_lut(values, dataset)
        return _to_bytes(coloured, 0, float(np.iinfo(coloured.dtype).max))
    return _to_bytes(values, 0, float(2 ** int(dataset.BitsStored) - 1))


def _read(data: bytes, name: str, *, tags: list[str], stop_before_pixels: bool = False) -> Any:
    import pydicom

    return pydicom.dcmread(
        io.BytesIO(_inflated(data, name)),
        stop_before_pixels=stop_before_pixels,
        specific_tags=list(tags) or None,
    )


def _inflated(data: bytes, name: str) -> bytes:
    """A deflated file as an uncompressed one; pydicom would inflate it, however large it becomes.

    Raises:
        ImageError: it becomes larger than the pixels of its header and 16 MB beside them.
    """
    if data[132:140] != _GROUP_LENGTH:
        return data
    start = 144 + int.from_bytes(data[140:144], "little")
    head = data[:start]
    if _DEFLATED not in head:
        return data
    import pydicom

    head = head.replace(_DEFLATED, _INFLATED)
    beginning = head + zlib.decompressobj(-zlib.MAX_WBITS).decompress(
        data[start:], _MOST_BESIDE_PIXELS
    )
    values = pydicom.dcmread(
        io.BytesIO(beginning), stop_before_pixels=True, specific_tags=list(_SHAPE_TAGS)
    )
    pixels = int(values.Rows) * int(values.Columns) * int(values.SamplesPerPixel) * 2
    stream = zlib.decompressobj(-zlib.MAX_WBITS)
    whole = stream.decompress(data[start:], _MOST_BESIDE_PIXELS + pixels)
    if not stream.eof:
        raise ImageError(f"{name}: is a damaged DICOM file, its pixels do not fit its header")
    return head + whole


def _pixels(dataset: Any, name: str) -> np.ndarray:
    from pydicom.pixels import pixel_array

    if dataset.file_meta.TransferSyntaxUID not in _NATIVE:
        from pydicom.pixels import get_decoder

        if not get_decoder(dataset.file_meta.TransferSyntaxUID).is_available:
            raise MissingExtraError(
                f"{name}: this compressed DICOM needs more packages; run: "
                "pip install 'cascade[dicom]'"
            )
    return np.asarray(pixel_array(dataset))


def _check_frame(dataset: Any, name: str) -> None:
    """Refuse compressed pixels that would unpack to more than the header admits."""
    syntax = str(dataset.file_meta.get("TransferSyntaxUID", ""))
    if syntax in _NATIVE:
        return
    if syntax in _VIDEO or not (syntax == _RLE or syntax.startswith(_JPEG_FAMILY)):
        raise ImageError(f"{name}: the compression of this DICOM file is not supported")
    from pydicom.encaps import get_frame

    frame = get_frame(dataset.PixelData, 0, number_of_frames=1)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    if syntax == _RLE:
        size = rows * columns * int(dataset.SamplesPerPixel) * int(dataset.BitsAllocated) // 8
        fits = len(frame) <= 2 * size + 1024  # each byte may unpack to 64
    else:
        fits = _codestream_shape(frame) == (rows, columns)
    if not fits:
        raise ImageError(f"{name}: is damaged, its pixels do not fit the size in its header")


def _codestream_shape(frame: bytes) -> tuple[int, int] | None:
    """``(H, W)`` as a JPEG, JPEG-LS or JPEG 2000 stream itself states it."""
    start = frame.find(jpeg_2000.START, 0, 4096)
    if start >= 0:
        return jpeg_2000.stream_shape(frame, start)
    position = 2
    while position + 9 <= len(frame) and frame[position] == 0xFF:
        marker, length = (
            frame[position + 1],
            int.from_bytes(frame[position + 2 : position + 4], "big"),
        )
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            height, width = struct.unpack_from(">HH", frame, position + 5)
            return height, width
        position += 1 if marker == 0xFF else 2 + length
    return None


def _windowed(values: np.ndarray, dataset: Any) -> np.ndarray:
    """Apply modality and window, then map their full range to 0..255."""
    from pydicom.pixels import apply_modality_lut, apply_voi_lut

    scaled = apply_voi_lut(apply_modality_lut(values, dataset), dataset, index=0)
    for keyword in ("VOILUTSequence", "ModalityLUTSequence"):
        if dataset.get(keyword):
            return _to_bytes(scaled, 0, float(2 ** int(dataset[keyword][0].LUTDescriptor[2]) - 1))
    bits = int(dataset.BitsStored)
    low, high = (
        (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
        if dataset.PixelRepresentation
        else (0, 2**bits - 1)
    )
    slope, intercept = (
        float(dataset.get("RescaleSlope", 1)),
        float(dataset.get("RescaleIntercept", 0)),
    )
    ends = low * slope + intercept, high * slope + intercept
    return _to_bytes(scaled, min(ends), max(ends))


def _to_bytes(values: np.ndarray, low: float, high: float) -> np.ndarray:
    if values.dtype == np.uint8 and (low, high) == (0, 255):
        return values
    scaled = (values.astype(np.float32) - np.float32(low)) * np.float32(255 / max(high - low, 1e-9))
    return np.clip(np.rint(scaled), 0, 255).astype(np.uint8)
