"""Small DICOM series made to order."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)


def write_slice(path, pixels, series="1.2.3", position=(0, 0, 0), orientation=AXIAL, **tags):
    """Writes one slice; ``tags`` override (or, given None, remove) what is written by default."""
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID = CTImageStorage
    meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    pixels = np.asarray(pixels)
    signed = pixels.dtype.kind == "i"
    bits = pixels.dtype.itemsize * 8
    values = {
        "SOPClassUID": CTImageStorage,
        "SOPInstanceUID": meta.MediaStorageSOPInstanceUID,
        "SeriesInstanceUID": series,
        "Modality": "CT",
        "PatientID": "p1",
        "Rows": pixels.shape[0],
        "Columns": pixels.shape[1],
        "SamplesPerPixel": 1 if pixels.ndim == 2 else 3,
        "PhotometricInterpretation": "MONOCHROME2" if pixels.ndim == 2 else "RGB",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(signed),
        "PixelSpacing": [0.5, 0.25],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "ImagePositionPatient": list(position),
        "ImageOrientationPatient": list(orientation),
    }
    if pixels.ndim == 3:
        values["PlanarConfiguration"] = 0
    for name, value in {**values, **tags}.items():
        if value is not None:
            setattr(data, name, value)
    data.PixelData = np.ascontiguousarray(pixels).tobytes()
    pydicom.dcmwrite(str(path), data, enforce_file_format=True)
    return str(path)


@pytest.fixture
def dicom():
    """The function ``write_slice`` above."""
    return write_slice


@pytest.fixture
def series(tmp_path):
    """A function that writes slices 2 mm apart along z, in shuffled file order, and returns the files.

    Slice k holds ``volume[k]``; ``change(k)`` gives tags of a slice to override.
    """

    def write(volume, change=lambda k: {}, skip=(), folder="stack", spacing=2.0):
        (tmp_path / folder).mkdir(exist_ok=True)
        files = []
        for k in range(len(volume)):
            if k not in skip:
                tags = {"position": (10, 20, 30 + spacing * k), **change(k)}
                files.append(write_slice(tmp_path / folder / f"{(k * 7) % 11:02}_{k}", volume[k], **tags))
        return tuple(sorted(files))

    return write
