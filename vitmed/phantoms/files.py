"""Simulated scans as the files a hospital would hand over: DICOM, NIfTI, PNG.

No clock and no random number enters a file, so the same scan has the same bytes. Identifiers are pseudonyms
that say so, dates count days from 2000-01-01, and every image is marked DERIVED.
DICOM PS3.3 A.2 (CR), A.3 (CT), A.4 (MR), A.26 (DX, with X-Ray Tomography Acquisition, C.8.7.7, and, as a
standard extended class, the Image Plane module, without which no plane of a tomosynthesis has a place);
NIfTI-1.
"""

import datetime
import gzip
import io
from pathlib import Path

import nibabel
import numpy as np
import pydicom
from PIL import Image
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

CLASSES = {
    "xray": ("CR", "1.2.840.10008.5.1.4.1.1.1", "CHEST"),
    "ct": ("CT", "1.2.840.10008.5.1.4.1.1.2", "CHEST"),
    "mr": ("MR", "1.2.840.10008.5.1.4.1.1.4", "HEAD"),
    "tomosynthesis": ("DX", "1.2.840.10008.5.1.4.1.1.1.1", "CHEST"),
}
RESCALE = -1024  # CT is stored unsigned, HU + 1024
# How an image lies in the patient (x, y, z): along its rows, along its columns.
AXIAL, CORONAL = ((1, 0, 0), (0, 1, 0)), ((1, 0, 0), (0, 0, -1))


def dicom(path: Path, modality: str, image: np.ndarray, spacing, patient: str, site: str, scan: int) -> None:
    """One image (rows, columns) as a DICOM file at `path`, or a volume (z, y, x) as a series, a file a slice,
    in the folder `path`. Spacing in mm; the centre of the grid is the origin of the patient's LPS frame.
    Slices are axial, those of modality "tomosynthesis" coronal, rows head to foot."""
    volume, axes = (image if image.ndim == 3 else image[None]), AXIAL
    if modality == "tomosynthesis":
        volume, axes = image.transpose(1, 0, 2)[:, ::-1], CORONAL
        spacing = spacing[1], spacing[0], spacing[2]
    shape, steps = volume.shape[1:], tuple(float(d) for d in spacing[-2:])
    thickness = float(spacing[0]) if image.ndim == 3 else None
    template = _header(modality, patient, site, scan)
    _geometry_of_plane(template, modality, shape, steps, axes)
    _pixels(template, modality)
    name = template.SeriesInstanceUID
    if image.ndim == 3:
        path.mkdir(parents=True)
        template.SliceThickness = f"{thickness:g}"
        template.SpacingBetweenSlices = f"{thickness:g}"
    if image.ndim == 3:
        template = _encoded(template)
    for i, plane in enumerate(volume):
        template.SOPInstanceUID = generate_uid(entropy_srcs=[name, str(i)])
        template.file_meta.MediaStorageSOPInstanceUID = template.SOPInstanceUID
        template.InstanceNumber = i + 1
        if modality != "xray":
            depth = (i - (len(volume) - 1) / 2) * (thickness or 0.0)
            down, right = (-(n - 1) / 2 * d for n, d in zip(shape, steps, strict=True))
            along, across = np.array(axes)
            first = right * along + down * across + depth * np.cross(along, across)
            template.ImagePositionPatient = [f"{v:.6g}" for v in first]
            template.SliceLocation = f"{depth:.6g}"
        stored = plane.astype(np.int32) - RESCALE if modality == "ct" else plane
        template.add_new("PixelData", "OW", np.ascontiguousarray(stored, "<u2").tobytes())
        target = path / f"{i:04d}.dcm" if image.ndim == 3 else path
        pydicom.dcmwrite(target, template, enforce_file_format=True)


def _encoded(ds: Dataset) -> Dataset:
    """The same header with its values already in bytes: a series repeats them in every slice."""
    ds.SOPInstanceUID = ds.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=["none"])
    memory = io.BytesIO()
    pydicom.dcmwrite(memory, ds, enforce_file_format=True)
    memory.seek(0)
    return pydicom.dcmread(memory)


def _header(modality: str, patient: str, site: str, scan: int) -> Dataset:
    """Who, where, when and what."""
    kind, sop_class, body = CLASSES[modality]
    ds = Dataset()
    ds.file_meta = FileMetaDataset()
    ds.file_meta.MediaStorageSOPClassUID = sop_class
    ds.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    ds.SpecificCharacterSet = "ISO_IR 100"
    ds.ImageType = ["DERIVED", "SECONDARY", "AXIAL"] if kind == "CT" else ["DERIVED", "SECONDARY"]
    ds.SOPClassUID = sop_class
    day = datetime.date(2000, 1, 1) + datetime.timedelta(days=90 * scan)
    ds.StudyDate = ds.ContentDate = day.strftime("%Y%m%d")
    ds.StudyTime = ds.ContentTime = "120000"
    ds.AccessionNumber = ""
    ds.Modality = kind
    ds.Manufacturer = "vitmed phantoms"
    ds.InstitutionName = f"Simulated site {site}"
    ds.ReferringPhysicianName = ""
    ds.StudyDescription = "Simulated scan"
    ds.DerivationDescription = "Simulated from analytic shapes"
    ds.PatientName = f"PHANTOM^{patient}"
    ds.PatientID = patient
    ds.PatientBirthDate = ds.PatientSex = ""
    ds.PatientIdentityRemoved = "YES"
    ds.DeidentificationMethod = "Simulated: there never was a patient"
    ds.BodyPartExamined = body
    ds.StudyInstanceUID = generate_uid(entropy_srcs=["study", modality, patient, str(scan)])
    ds.SeriesInstanceUID = generate_uid(entropy_srcs=["series", modality, patient, str(scan)])
    ds.StudyID, ds.SeriesNumber, ds.AcquisitionNumber = str(scan + 1), 1, 1
    return ds


def _geometry_of_plane(ds: Dataset, modality: str, shape, steps, axes) -> None:
    ds.Rows, ds.Columns = shape
    ds.PixelSpacing = [f"{d:.6g}" for d in steps]
    if modality in ("xray", "tomosynthesis"):
        ds.ImagerPixelSpacing = ds.PixelSpacing
        ds.ViewPosition, ds.PatientOrientation = "PA", ["L", "F"]
    if modality == "xray":
        return
    if modality != "tomosynthesis":  # who stands before a detector lies on no table
        ds.PatientPosition = "HFS"
    ds.ImageOrientationPatient = [*axes[0], *axes[1]]
    ds.FrameOfReferenceUID = generate_uid(entropy_srcs=["frame", ds.StudyInstanceUID])
    ds.PositionReferenceIndicator = ""


def _pixels(ds: Dataset, modality: str) -> None:
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.BitsAllocated, ds.BitsStored, ds.PixelRepresentation = 16, 16, 0
    if modality == "ct":
        ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = str(RESCALE), "1", "HU"
        ds.WindowCenter, ds.WindowWidth, ds.KVP = "-300", "1400", "120"
    elif modality in ("xray", "tomosynthesis"):
        ds.BitsStored = 12
        ds.WindowCenter, ds.WindowWidth = "2048", "4096"
        if modality == "tomosynthesis":
            ds.PresentationIntentType, ds.PresentationLUTShape = "FOR PRESENTATION", "IDENTITY"
            ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
            ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
            ds.BurnedInAnnotation, ds.LossyImageCompression, ds.ImageLaterality = "NO", "00", "U"
            ds.TomoType, ds.TomoClass = "LINEAR", "TOMOSYNTHESIS"
    else:
        ds.ScanningSequence, ds.SequenceVariant, ds.MRAcquisitionType = "SE", "NONE", "2D"
        ds.RepetitionTime = ds.EchoTime = ds.EchoTrainLength = None
    ds.HighBit = ds.BitsStored - 1


def nifti(path: Path, image: np.ndarray, spacing) -> None:
    """A volume (z, y, x) in LPS as a gzipped NIfTI: stored (x, y, z), with an affine to RAS as NIfTI
    demands."""
    step = np.array(spacing, float)[::-1]
    affine = np.diag([-step[0], -step[1], step[2], 1.0])
    affine[:3, 3] = -affine[:3, :3] @ ((np.array(image.shape[::-1]) - 1) / 2)
    scan = nibabel.Nifti1Image(np.ascontiguousarray(image.transpose(2, 1, 0)), affine)
    scan.set_sform(affine, code=1)
    scan.set_qform(affine, code=1)
    scan.header.set_xyzt_units("mm", "sec")
    scan.header["descrip"] = b"simulated by vitmed"
    path.write_bytes(gzip.compress(scan.to_bytes(), compresslevel=4, mtime=0))


def png(path: Path, image: np.ndarray) -> None:
    """A picture (rows, columns) in uint8 as a greyscale PNG."""
    memory = io.BytesIO()
    Image.fromarray(image).save(memory, "PNG")
    path.write_bytes(memory.getvalue())
