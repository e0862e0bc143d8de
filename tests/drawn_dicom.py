"""DICOM files, built with pydicom."""

import io

import pydicom

PATIENT = "Doe^Jane"


def dataset(pixels, colours, *, syntax="1.2.840.10008.1.2.1", **tags):
    result = pydicom.Dataset()
    result.file_meta = pydicom.dataset.FileMetaDataset()
    result.file_meta.TransferSyntaxUID = syntax
    result.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.77.1.4"
    result.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    result.PatientName, result.PatientID = PATIENT, "4711"
    result.Rows, result.Columns = pixels.shape[:2]
    result.SamplesPerPixel = 3 if pixels.ndim == 3 else 1
    if pixels.ndim == 3:
        result.PlanarConfiguration = 0
    result.PhotometricInterpretation = colours
    result.BitsAllocated = result.BitsStored = pixels.dtype.itemsize * 8
    result.HighBit = result.BitsStored - 1
    result.PixelRepresentation = int(pixels.dtype.kind == "i")
    result.PixelData = pixels.tobytes()
    for keyword, value in tags.items():
        setattr(result, keyword, value)
    return result


def encode(values):
    buffer = io.BytesIO()
    values.save_as(buffer, enforce_file_format=True)
    return buffer.getvalue()
