"""Small DICOM series made to order."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, EnhancedMRImageStorage, ExplicitVRLittleEndian, generate_uid

AXIAL = (1, 0, 0, 0, 1, 0)


def write_slice(path, pixels, series="1.2.3", position=(0, 0, 0), orientation=AXIAL, pixel_data=None, **tags):
    """Writes one slice; ``tags`` override (or, given None, remove) what is written by default.

    ``pixel_data`` are the pixels of a file that holds more than one image of the size of ``pixels``.
    """
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
    data.PixelData = np.ascontiguousarray(pixels if pixel_data is None else pixel_data).tobytes()
    pydicom.dcmwrite(str(path), data, enforce_file_format=True)
    return str(path)


@pytest.fixture
def dicom():
    """The function ``write_slice`` above."""
    return write_slice


def write_enhanced(path, frames, groups, shared=None, **tags):
    """Writes frames as one enhanced file, by default MR of (0.5, 0.25) mm and AXIAL.

    Args:
        groups: of a frame's number, its functional groups: {"MREcho": {"EffectiveEchoTime": 20.0}}.
        shared: the groups of all frames beside those of geometry.
        tags: of the file, in place of what is written by default.
    """
    geometry = {
        "PixelMeasures": {"PixelSpacing": [0.5, 0.25], "SliceThickness": 99},
        "PlaneOrientation": {"ImageOrientationPatient": list(AXIAL)},
    }
    values = {
        "SOPClassUID": EnhancedMRImageStorage,
        "Modality": "MR",
        "NumberOfFrames": len(frames),
        "SharedFunctionalGroupsSequence": [_groups({**geometry, **(shared or {})})],
        "PerFrameFunctionalGroupsSequence": [_groups(groups(k)) for k in range(len(frames))],
    }
    classic = dict.fromkeys(
        (
            "PixelSpacing",
            "ImagePositionPatient",
            "ImageOrientationPatient",
            "RescaleSlope",
            "RescaleIntercept",
        )
    )
    return write_slice(path, frames[0], pixel_data=frames, **{**classic, **values, **tags})


def _groups(groups):
    holder = Dataset()
    for name, values in groups.items():
        item = Dataset()
        for keyword, value in values.items():
            setattr(item, keyword, value)
        setattr(holder, f"{name}Sequence", [item])
    return holder


@pytest.fixture
def enhanced():
    """The function ``write_enhanced`` above."""
    return write_enhanced


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
