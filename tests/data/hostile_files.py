"""Small files of each format, with a field or a part of them as no program would write it."""

import gzip
import zlib

import nibabel as nib
import numpy as np
import pydicom
from pydicom.uid import CTImageStorage, generate_uid


def slice_of(path, pixels=None, **tags):
    """A DICOM file of 8x8 as Explicit VR Little Endian; tags override, and None removes."""
    pixels = np.arange(64, dtype=np.uint16).reshape(8, 8) if pixels is None else pixels
    data = pydicom.Dataset()
    data.file_meta = pydicom.dataset.FileMetaDataset()
    data.file_meta.TransferSyntaxUID = tags.pop("syntax", pydicom.uid.ExplicitVRLittleEndian)
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": generate_uid(entropy_srcs=[str(path)]),
        "StudyInstanceUID": "1.2",
        "SeriesInstanceUID": f"1.2.{zlib.crc32(path.name.encode())}",
        "Modality": "CT",
        "PatientID": "p",
        "Rows": 8,
        "Columns": 8,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 16,
        "BitsStored": 16,
        "HighBit": 15,
        "PixelRepresentation": 0,
        "PixelSpacing": [1, 1],
        "RescaleSlope": 1,
        "RescaleIntercept": 0,
        "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": [1, 0, 0, 0, 1, 0],
        "PixelData": pixels if isinstance(pixels, bytes) else pixels.tobytes(),
    }
    for name, value in {**values, **tags}.items():
        if value is not None:
            setattr(data, name, value)
    data.file_meta.MediaStorageSOPClassUID = values["SOPClassUID"]
    data.file_meta.MediaStorageSOPInstanceUID = values["SOPInstanceUID"]
    pydicom.dcmwrite(path, data, enforce_file_format=True)
    return path


def series_of(folder, name, change=lambda k: {}, count=6):
    (folder / name).mkdir()
    for k in range(count):
        tags = {
            "SeriesInstanceUID": f"1.3.{zlib.crc32(name.encode())}",
            "ImagePositionPatient": [0, 0, 2 * k],
        }
        slice_of(folder / name / f"{k}.dcm", **{**tags, **change(k)})


def nifti_of(path, **fields):
    """A small NIfTI-1 whose header fields are then overwritten."""
    image = nib.Nifti1Image(np.arange(64, dtype=np.int16).reshape(4, 4, 4), np.eye(4))
    header = image.header.copy()
    block = bytearray(image.to_bytes())
    for name, value in fields.items():
        header[name] = value
    block[:348] = header.binaryblock[:348]
    path.write_bytes(gzip.compress(bytes(block)) if path.suffix == ".gz" else bytes(block))


def cut(path, keep=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * keep)])


def mha(path, size, data, file="LOCAL", spacing="1 1 1"):
    text = (
        f"ObjectType = Image\nNDims = 3\nBinaryData = True\nElementSpacing = {spacing}\nDimSize = {size}\n"
        f"ElementType = MET_UCHAR\nElementDataFile = {file}\n"
    )
    path.write_bytes(text.encode() + (data or b""))


def nrrd(path, size, data, encoding="raw", data_file=None, spacing="(1,0,0)"):
    text = (
        f"NRRD0004\ntype: uint8\ndimension: 3\nspace: left-posterior-superior\nsizes: {size}\n"
        f"space directions: {spacing} (0,1,0) (0,0,1)\nencoding: {encoding}\nspace origin: (0,0,0)\n"
    )
    text += f"data file: {data_file}\n" if data_file else "\n"
    path.write_bytes(text.encode() + (data or b""))
