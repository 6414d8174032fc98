"""Trained runs to ask, and a model that can be worked out by hand."""

from pathlib import Path

import numpy as np
import pydicom
import pytest
import short_runs
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, UltrasoundImageStorage, generate_uid

from vitmed.infer import Model


@pytest.fixture(scope="session")
def classifier(tiny_dataset, tmp_path_factory) -> Path:
    """A classifier of ``tiny_dataset`` after two steps."""
    run = tmp_path_factory.mktemp("apply") / "classifier"
    short_runs.train(short_runs.CLASSIFY, tiny_dataset, run, **{"train.steps": 2})
    return run


@pytest.fixture
def by_brightness(monkeypatch):
    """Every segmenter gives the mask that brightness tells, 0 to 200 in each scan: 200 structure 1, 130 structure 2.

    So what comes back on a scan's grid can be worked out from the scan alone. Gives the function from brightness to mask.
    """

    def probabilities(self, dataset, split, indices=None):
        self.check(dataset, whole=False)
        for i in range(dataset.size(split)) if indices is None else indices:
            stream = dataset.read(split, [i])
            units = stream["image"][0, ..., 0] * stream["scale"][0, 0] + stream["offset"][0, 0]
            yield int(i), np.eye(3, dtype=np.float32)[classes((units - units.min()) / np.ptp(units) * 200)]

    monkeypatch.setattr(Model, "probabilities", probabilities)
    return classes


def classes(values: np.ndarray) -> np.ndarray:
    """The structure of each brightness."""
    return np.select([values > 165, values > 95], [1, 2]).astype(np.uint8)


@pytest.fixture
def write_dicom():
    """Writes one image of 16 x 16 of a modality, "US" or "CT"."""

    def write(path, modality):
        kind = {"US": UltrasoundImageStorage, "CT": CTImageStorage}[modality]
        meta = FileMetaDataset()
        meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = kind, ExplicitVRLittleEndian
        meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[modality])
        data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
        data.SOPClassUID, data.SOPInstanceUID = kind, meta.MediaStorageSOPInstanceUID
        data.Modality, data.SeriesInstanceUID, data.StudyInstanceUID = modality, "1.2.3", "1.2"
        data.Rows = data.Columns = 16
        data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
        data.BitsAllocated = data.BitsStored = 8
        data.HighBit, data.PixelRepresentation = 7, 0
        data.PixelData = np.arange(256, dtype=np.uint8).tobytes()
        if modality == "CT":
            data.RescaleSlope, data.RescaleIntercept = 1, -1024
            data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 0], [1, 0, 0, 0, 1, 0]
            data.PixelSpacing, data.ImageType = [1, 1], ["ORIGINAL", "PRIMARY", "AXIAL"]
        pydicom.dcmwrite(str(path), data, enforce_file_format=True)

    return write
