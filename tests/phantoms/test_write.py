"""The files: the same bytes whoever writes them, and what readers of DICOM, NIfTI and PNG make of them."""

import csv
import json
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from PIL import Image

from vitmed.data.ingest import ingest
from vitmed.errors import InputError
from vitmed.phantoms.example import example
from vitmed.phantoms.write import write
from vitmed.scans.find import find
from vitmed.scans.read import read

SIZES = {
    "xray": (32, 32), "ct": (8, 16, 16), "mr": (8, 12, 16), "ultrasound": (24, 24),
    "xray 3D": (16, 8, 12), "ultrasound 3D": (8, 12, 16),
}  # fmt: skip


def contents(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    root = tmp_path_factory.mktemp("phantoms")
    for kind, size in SIZES.items():
        write(root / kind, kind.split()[0], 2, seed=4, size=size, scans_per_patient=2, workers=1)
    return root


@pytest.mark.parametrize("kind", list(SIZES))
def test_bytes_do_not_depend_on_who_else_is_written(kind, written, tmp_path):
    """Example i alone, within a set and whatever else is made is the same file; nothing holds a clock."""
    write(tmp_path / kind, kind.split()[0], 1, seed=4, size=SIZES[kind], scans_per_patient=2, workers=1)
    alone, whole = contents(tmp_path / kind), contents(written / kind)
    scans = [name for name in alone if "/" in name]
    assert scans and all(alone[name] == whole[name] for name in scans)


def test_bytes_do_not_depend_on_workers(written, tmp_path):
    """Two processes must write what one writes, in the same order of rows."""
    write(tmp_path / "xray", "xray", 2, seed=4, size=SIZES["xray"], scans_per_patient=2, workers=2)
    assert contents(tmp_path) == {
        k: v for k, v in contents(written).items() if k.startswith(("xray/", "truth/xray/"))
    }


def test_labels_and_record(written):
    """Every row names a file that is there; the folder says that it is simulated; truth lies outside of
    it."""
    for kind, size in SIZES.items():
        rows = list(csv.DictReader(open(written / kind / "labels.csv", newline="")))
        assert len(rows) == 4 and set(rows[0]) == {"path", "patient", "site", "label"}
        assert all((written / kind / row["path"]).exists() for row in rows)
        assert json.loads((written / kind / "phantoms.json").read_text())["simulated"] is True
        suffix = ".nii.gz" if len(size) == 3 else ".png"
        assert len([p for p in (written / "truth" / kind).rglob("*" + suffix)]) == 4


def test_ct_series_round_trip(written):
    """SimpleITK must find one series with the HU, spacing, origin and direction that were put in."""
    made = example("ct", 4, 0, 0, SIZES["ct"])
    folder = written / "ct" / f"{made.patient}/scan0"
    reader = sitk.ImageSeriesReader()
    series = reader.GetGDCMSeriesIDs(str(folder))
    assert len(series) == 1
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(folder), series[0]))
    volume = reader.Execute()
    assert np.array_equal(sitk.GetArrayFromImage(volume), made.picture.image)
    assert np.allclose(volume.GetSpacing()[::-1], made.picture.spacing)
    assert np.allclose(volume.GetDirection(), np.eye(3).ravel())
    middle = volume.TransformContinuousIndexToPhysicalPoint([(n - 1) / 2 for n in volume.GetSize()])
    assert np.allclose(middle, 0, atol=1e-3)


def test_tomosynthesis_series_lies_as_the_patient_does(written):
    """Coronal planes, front to back, rows head to foot: a plane put elsewhere would be believed."""
    made = example("xray", 4, 0, 1, SIZES["xray 3D"])
    files = sorted((written / "xray 3D" / made.patient / "scan1").iterdir())
    headers = [pydicom.dcmread(path) for path in files]
    assert len(files) == 8 and len({h.SOPInstanceUID for h in headers}) == 8
    assert len({h.SeriesInstanceUID for h in headers}) == 1
    z, y, x = made.picture.spacing
    for i, header in enumerate(headers):
        assert header.Modality == "DX" and header.TomoClass == "TOMOSYNTHESIS"
        assert np.allclose(header.ImageOrientationPatient, [1, 0, 0, 0, 0, -1])
        assert np.allclose(header.ImagePositionPatient, [-5.5 * x, (i - 3.5) * y, 7.5 * z], rtol=1e-4)
        assert np.allclose(header.PixelSpacing, [z, x], rtol=1e-4)
        assert np.array_equal(header.pixel_array, made.picture.image[::-1, i])
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(reader.GetGDCMSeriesFileNames(str(files[0].parent)))
    volume = sitk.DICOMOrient(reader.Execute(), "LPS")
    assert np.array_equal(sitk.GetArrayFromImage(volume), made.picture.image)
    assert np.allclose(volume.GetSpacing()[::-1], made.picture.spacing, rtol=1e-4)


@pytest.mark.parametrize("kind", [kind for kind, size in SIZES.items() if len(size) == 3])
def test_ingest_reads_volumes_back(kind, written, tmp_path):
    """Every volume must come back voxel by voxel, upright, at its true spacing and with its modality."""
    root = written / kind
    for source in find(root)[0]:
        patient, scan = Path(source.id).parts[:2]
        made = example(kind.split()[0], 4, int(patient[-5:]), int(scan[4]), SIZES[kind])
        back = read(source)
        assert np.array_equal(back.array[..., 0], made.picture.image)
        assert np.allclose(back.spacing, made.picture.spacing, rtol=1e-4)
    sheet = ingest(
        root, tmp_path / "d", labels=root / "labels.csv", modality=kind.split()[0], split="train",
        workers=1, progress=False,
    )  # fmt: skip
    assert sheet["examples"]["train"] == 4 and not sheet["refused"]


def test_xray_is_a_valid_pseudonymous_dicom(written):
    """Ingest reads geometry, bits and identity from the header: a wrong one is refused or, worse,
    believed."""
    made = example("xray", 4, 1, 1, SIZES["xray"])
    ds = pydicom.dcmread(written / "xray" / f"{made.patient}/scan1.dcm")
    assert np.array_equal(ds.pixel_array, made.picture.image) and ds.pixel_array.max() < 4096
    assert ds.Modality == "CR" and ds.PatientID == made.patient and str(ds.PatientName).startswith("PHANTOM^")
    assert ds.ImageType[0] == "DERIVED" and ds.PatientIdentityRemoved == "YES"
    assert np.allclose(ds.PixelSpacing, made.picture.spacing)
    assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
    uids = [pydicom.dcmread(p).SOPInstanceUID for p in (written / "xray").rglob("*.dcm")]
    assert len(set(uids)) == 4
    image = sitk.ReadImage(str(written / "xray" / f"{made.patient}/scan1.dcm"))
    assert np.array_equal(sitk.GetArrayFromImage(image)[0], made.picture.image)


def test_mr_nifti_orientation(written):
    """The stored array is (x, y, z) with x to the left of the patient: the affine must say L, P, S."""
    made = example("mr", 4, 0, 1, SIZES["mr"])
    path = written / "mr" / f"{made.patient}/scan1.nii.gz"
    scan = nibabel.load(path)
    assert nibabel.aff2axcodes(scan.affine) == ("L", "P", "S") and scan.get_data_dtype() == np.int16
    assert np.array_equal(np.asarray(scan.dataobj).transpose(2, 1, 0), made.picture.image)
    image = sitk.ReadImage(str(path))
    assert np.allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-6)  # LPS, as the phantom is
    assert np.allclose(image.GetSpacing()[::-1], made.picture.spacing)


def test_ultrasound_png(written):
    """Eight bits, one channel, as made."""
    made = example("ultrasound", 4, 0, 0, SIZES["ultrasound"])
    image = Image.open(written / "ultrasound" / f"{made.patient}/scan0.png")
    assert image.mode == "L" and np.array_equal(np.asarray(image), made.picture.image)


def test_single_slices_are_single_files(tmp_path):
    """A 2D size of a 3D modality gives one DICOM a scan."""
    for modality in ("ct", "mr"):
        write(tmp_path / modality, modality, 1, size=(24, 24), scans_per_patient=1, workers=1)
        (path,) = (tmp_path / modality).rglob("*.dcm")
        ds = pydicom.dcmread(path)
        stored = ds.pixel_array + float(ds.get("RescaleIntercept", 0))
        assert np.array_equal(stored, example(modality, 0, 0, 0, (24, 24)).picture.image)


def test_written_again_is_left_alone_and_others_are_refused(written, tmp_path):
    """A second call costs nothing; it never overwrites what it did not write."""
    before = (written / "xray" / "labels.csv").stat().st_mtime_ns
    again = write(written / "xray", "xray", 2, seed=4, size=SIZES["xray"], scans_per_patient=2)
    assert again["scans"] == 4 and (written / "xray" / "labels.csv").stat().st_mtime_ns == before
    with pytest.raises(InputError, match="seed"):
        write(written / "xray", "xray", 2, seed=5, size=SIZES["xray"], scans_per_patient=2)
    (tmp_path / "mine.txt").write_text("keep me")
    with pytest.raises(InputError, match="not empty"):
        write(tmp_path, "xray", 1)
    with pytest.raises(InputError, match="at least 1"):
        write(tmp_path / "none", "xray", 0)


def test_progress_counts_patients(tmp_path):
    """The demo shows time left from this."""
    seen = []
    write(
        tmp_path / "x",
        "xray",
        3,
        size=(8, 8),
        scans_per_patient=1,
        workers=1,
        progress=lambda *a: seen.append(a),
    )
    assert seen == [(1, 3), (2, 3), (3, 3)]
