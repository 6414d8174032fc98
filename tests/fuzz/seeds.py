"""Small sound files of every kind that is read, made here, for a fuzzer to start from."""

import gzip
import io
import struct
import zipfile

import nibabel as nib
import numpy as np
import pydicom
from PIL import Image
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.encaps import encapsulate

SUFFIX = {"dicom": ".dcm", "seg": ".dcm", "nifti": ".nii", "jpeg": ".jpg", "tiff": ".tif"}  # others: the name
BESIDE = "x.raw"  # the voxels of a header that stands alone

_AXIAL = [1, 0, 0, 0, 1, 0]


def _item(**values) -> Dataset:
    data = Dataset()
    for name, value in values.items():
        setattr(data, name, value)
    return data


def dicom(pixels: np.ndarray, syntax=uid.ExplicitVRLittleEndian, preamble: bool = True, **tags) -> bytes:
    """A DICOM file of pixels (rows, columns[, 3]) or (frames, rows, columns); tags override, and None removes.

    RLE Lossless pixels are encoded; of other compressed syntaxes the codestreams are given (``PixelData``).
    """
    data = FileDataset("", {}, file_meta=FileMetaDataset(), preamble=b"\0" * 128 if preamble else None)
    data.file_meta.TransferSyntaxUID = syntax
    colour = pixels.ndim == 3 and pixels.shape[-1] == 3
    frames = pixels.shape[0] if pixels.ndim == 3 and not colour else 1
    bits = pixels.dtype.itemsize * 8
    values = {
        "SOPClassUID": uid.CTImageStorage,
        "SOPInstanceUID": "1.2.3.4",
        "StudyInstanceUID": "1.2",
        "SeriesInstanceUID": "1.2.3",
        "Modality": "CT",
        "PatientID": "p1",
        "PatientName": "Quixote^Alonso",
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "Rows": pixels.shape[1] if frames > 1 else pixels.shape[0],
        "Columns": pixels.shape[2] if frames > 1 else pixels.shape[1],
        "NumberOfFrames": frames if frames > 1 else None,
        "SamplesPerPixel": 3 if colour else 1,
        "PlanarConfiguration": 0 if colour else None,
        "PhotometricInterpretation": "RGB" if colour else "MONOCHROME2",
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(pixels.dtype.kind == "i"),
        "PixelSpacing": [1, 1],
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
        "ImagePositionPatient": [0, 0, 0],
        "ImageOrientationPatient": _AXIAL,
    }
    for name, value in {**values, **tags}.items():
        if value is not None:
            setattr(data, name, value)
    if "PixelData" not in tags:
        if syntax == uid.RLELossless:
            planes = pixels if frames > 1 else pixels[None]
            encoder = pydicom.pixels.get_encoder(syntax)
            about = {
                "rows": int(data.Rows),
                "columns": int(data.Columns),
                "samples_per_pixel": 3 if colour else 1,
                "number_of_frames": 1,
                "bits_allocated": bits,
                "bits_stored": bits,
                "pixel_representation": int(pixels.dtype.kind == "i"),
                "photometric_interpretation": str(data.PhotometricInterpretation),
                "planar_configuration": 0,
            }
            data.PixelData = encapsulate([encoder.encode(np.ascontiguousarray(p), **about) for p in planes])
        else:
            data.PixelData = np.ascontiguousarray(pixels).tobytes()
    data.file_meta.MediaStorageSOPClassUID = data.SOPClassUID
    data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
    out = io.BytesIO()
    implicit, little = syntax == uid.ImplicitVRLittleEndian, syntax != uid.ExplicitVRBigEndian
    if preamble:
        pydicom.dcmwrite(out, data, enforce_file_format=True)
    else:
        del data.file_meta
        pydicom.dcmwrite(out, data, implicit_vr=implicit, little_endian=little, enforce_file_format=False)
    return out.getvalue()


def enhanced(frames: int = 3) -> bytes:
    """An enhanced MR file: geometry, rescale and window of each frame in functional groups."""
    groups = [
        _item(
            PlanePositionSequence=[_item(ImagePositionPatient=[0, 0, 2 * k])],
            FrameContentSequence=[_item(StackID="1", InStackPositionNumber=k + 1, TemporalPositionIndex=1)],
        )
        for k in range(frames)
    ]
    shared = _item(
        PixelMeasuresSequence=[_item(PixelSpacing=[1, 1], SliceThickness=2)],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=_AXIAL)],
        PixelValueTransformationSequence=[_item(RescaleSlope=2, RescaleIntercept=1)],
        FrameVOILUTSequence=[_item(WindowCenter=40, WindowWidth=80)],
    )
    return dicom(
        np.arange(frames * 64, dtype=np.uint16).reshape(frames, 8, 8),
        SOPClassUID=uid.EnhancedMRImageStorage,
        Modality="MR",
        PixelSpacing=None,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        RescaleSlope=None,
        RescaleIntercept=None,
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=groups,
    )


def segmentation(slices: int = 3) -> bytes:
    """A BINARY segmentation of 8x8 pixels and that many slices, 2 mm apart from the origin."""
    groups = [
        _item(
            SegmentIdentificationSequence=[_item(ReferencedSegmentNumber=1)],
            PlanePositionSequence=[_item(ImagePositionPatient=[0, 0, 2 * k])],
        )
        for k in range(slices)
    ]
    shared = _item(
        PixelMeasuresSequence=[_item(PixelSpacing=[1, 1], SliceThickness=2, SpacingBetweenSlices=2)],
        PlaneOrientationSequence=[_item(ImageOrientationPatient=_AXIAL)],
    )
    bits = np.zeros((slices, 8, 8), bool)
    bits[:, 2:6, 3:7] = True
    return dicom(
        np.zeros((slices, 8, 8), np.uint8),
        SOPClassUID=uid.SegmentationStorage,
        Modality="SEG",
        SegmentationType="BINARY",
        BitsAllocated=1,
        BitsStored=1,
        HighBit=0,
        PixelSpacing=None,
        ImagePositionPatient=None,
        ImageOrientationPatient=None,
        RescaleSlope=None,
        RescaleIntercept=None,
        SegmentSequence=[_item(SegmentNumber=1, SegmentLabel="liver")],
        ReferencedSeriesSequence=[_item(SeriesInstanceUID="1.2.3")],
        SharedFunctionalGroupsSequence=[shared],
        PerFrameFunctionalGroupsSequence=groups,
        PixelData=np.packbits(bits.ravel(), bitorder="little").tobytes(),
    )


def nifti(shape=(4, 5, 6), dtype=np.int16, kind=nib.Nifti1Image, **header) -> bytes:
    """A NIfTI file of 1 mm; ``header`` sets fields of its header."""
    image = kind(np.arange(np.prod(shape)).reshape(shape).astype(dtype), np.eye(4))
    for name, value in header.items():
        image.header[name] = value
    return image.to_bytes()


def metaimage(pixels: np.ndarray, file: str = "LOCAL", **fields) -> bytes:
    """A MetaImage, its voxels plain and in the same file (.mha), or the header alone for those of another (.mhd)."""
    names = {"uint8": "MET_UCHAR", "int16": "MET_SHORT", "float32": "MET_FLOAT"}
    n = pixels.ndim
    head = {
        "ObjectType": "Image",
        "NDims": n,
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": " ".join(str(int(v)) for v in np.eye(n).ravel()),
        "Offset": " ".join("0" * n),
        "ElementSpacing": " ".join("1" * n),
        "DimSize": " ".join(map(str, pixels.shape[::-1])),
        "ElementType": names[pixels.dtype.name],
        **fields,
        "ElementDataFile": file,
    }
    text = "".join(f"{k} = {v}\n" for k, v in head.items())
    return text.encode() + (pixels.tobytes() if file == "LOCAL" else b"")


def nrrd(pixels: np.ndarray, encoding: str = "raw", file: str | None = None) -> bytes:
    """An NRRD picture, or volume in LPS; the header alone (.nhdr) where its voxels lie in another file."""
    body, n = pixels.tobytes(), pixels.ndim
    axes = [f"({','.join(str(int(v)) for v in row)})" for row in np.eye(n)]
    head = {
        "type": {"uint8": "uint8", "int16": "short"}[pixels.dtype.name],
        "dimension": n,
        **({"space": "left-posterior-superior"} if n == 3 else {"space dimension": n}),
        "sizes": " ".join(map(str, pixels.shape[::-1])),
        "space directions": " ".join(axes),
        "kinds": " ".join(["domain"] * n),
        "endian": "little",
        "encoding": encoding,
        "space origin": f"({','.join('0' * n)})",
    }
    head |= {"data file": file} if file else {}
    text = "NRRD0004\n" + "".join(f"{k}: {v}\n" for k, v in head.items()) + "\n"
    if file:
        return text.encode()
    return text.encode() + (gzip.compress(body, mtime=0) if encoding == "gzip" else body)


def picture(pixels: np.ndarray, kind: str, **options) -> bytes:
    """A picture by Pillow; several of (n, H, W) where ``save_all`` is given."""
    out = io.BytesIO()
    if options.get("save_all"):
        first, *rest = [Image.fromarray(p) for p in pixels]
        first.save(out, kind, append_images=rest, **options)
    else:
        Image.fromarray(pixels).save(out, kind, **options)
    return out.getvalue()


def codestream(kind: str) -> bytes:
    """The first segments of a codestream of 8x8 pixels, which tell its size."""
    if kind == "JPEG 2000":
        size = struct.pack(">HHIIIIIIIIH", 41, 0, 8, 8, 0, 0, 8, 8, 0, 0, 1)
        return b"\xff\x4f\xff\x51" + size + b"\7\1\1" + bytes(99)
    return b"\xff\xd8\xff\xf7" + struct.pack(">HBHHBBBB", 11, 8, 8, 8, 1, 1, 0x11, 0) + bytes(99)  # JPEG-LS


def array(values: np.ndarray) -> bytes:
    """An .npy."""
    out = io.BytesIO()
    np.save(out, values)
    return out.getvalue()


def zipped(members: dict[str, bytes], packed: bool = False) -> bytes:
    """A zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED if packed else zipfile.ZIP_STORED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name), data)
    return out.getvalue()


def all_of() -> dict[str, list[bytes]]:
    """The seeds of each reader."""
    grey8 = (np.arange(64, dtype=np.uint8) * 3).reshape(8, 8)
    grey16 = np.arange(64, dtype=np.uint16).reshape(8, 8) * 900
    rgb = np.arange(192, dtype=np.uint8).reshape(8, 8, 3)
    cine = np.arange(256, dtype=np.uint8).reshape(4, 8, 8)
    volume = np.arange(120, dtype=np.int16).reshape(4, 5, 6)
    lut = _item(
        LUTDescriptor=[64, 0, 16], LUTData=struct.pack("<64H", *range(0, 6400, 100)), ModalityLUTType="HU"
    )
    us = {"SOPClassUID": uid.UltrasoundMultiFrameImageStorage, "Modality": "US", "RescaleIntercept": None}
    palette = {
        f"{c}PaletteColorLookupTable{w}": v
        for c in ("Red", "Green", "Blue")
        for w, v in (("Descriptor", [256, 0, 8]), ("Data", bytes(range(256))))
    }
    return {
        "dicom": [
            dicom(grey16),
            dicom(grey16, uid.ImplicitVRLittleEndian),
            dicom(grey16, uid.ImplicitVRLittleEndian, preamble=False),
            dicom(grey16, uid.ExplicitVRBigEndian, PixelData=grey16.astype(">u2").tobytes()),
            dicom(grey16, uid.DeflatedExplicitVRLittleEndian),
            dicom(grey16, uid.DeflatedExplicitVRLittleEndian)[132:],  # without preamble
            dicom(grey16.astype(np.int16), PixelPaddingValue=0, BitsStored=12, HighBit=11),
            dicom(grey16, uid.RLELossless),
            dicom(rgb, uid.RLELossless, Modality="OT", RescaleIntercept=None),
            dicom(cine, **us),
            dicom(cine, uid.RLELossless, **us),
            dicom(rgb, **us),
            dicom(rgb, PhotometricInterpretation="YBR_FULL", **us),
            dicom(grey8, PhotometricInterpretation="PALETTE COLOR", **us, **palette),
            dicom(
                grey8, PhotometricInterpretation="MONOCHROME1", Modality="CR", WindowCenter=9, WindowWidth=9
            ),
            dicom(grey8, Modality="DX", VOILUTSequence=[lut], ModalityLUTSequence=None),
            dicom(grey8, ModalityLUTSequence=[lut], RescaleSlope=None, RescaleIntercept=None),
            enhanced(),
            dicom(grey8, uid.JPEGBaseline8Bit, PixelData=encapsulate([picture(grey8, "jpeg")]), **us),
            dicom(
                cine, uid.JPEGBaseline8Bit, PixelData=encapsulate([picture(p, "jpeg") for p in cine]), **us
            ),
            dicom(grey8, uid.JPEG2000Lossless, PixelData=encapsulate([codestream("JPEG 2000")]), **us),
            dicom(grey8, uid.JPEGLSLossless, PixelData=encapsulate([codestream("JPEG-LS")])),
        ],
        "seg": [segmentation()],
        "nifti": [
            nifti(),
            nifti(dtype=np.uint8),
            nifti(dtype=np.float32, scl_slope=2, scl_inter=1),
            nifti((4, 5, 6, 2)),
            nifti(kind=nib.Nifti2Image),
        ],
        "mha": [
            metaimage(volume),
            metaimage(grey8),
            metaimage(volume.astype(np.float32), ElementSpacing="1 1 2.5"),
            metaimage(
                rgb,
                NDims=2,
                DimSize="8 8",
                ElementNumberOfChannels=3,
                TransformMatrix="1 0 0 1",
                Offset="0 0",
                ElementSpacing="1 1",
            ),
        ],
        "mhd": [
            metaimage(volume, BESIDE),
            metaimage(volume, BESIDE, DistanceUnits="cm", ElementToIntensityFunctionSlope=2),
        ],
        "nhdr": [nrrd(volume, file=BESIDE), nrrd(grey8, file=BESIDE)],
        "nrrd": [
            nrrd(volume),
            nrrd(volume, "gzip"),
            nrrd(grey8),
        ],
        "png": [
            picture(grey8, "png"),
            picture(rgb, "png"),
            picture(grey16, "png"),
            picture(np.dstack([rgb, np.full((8, 8), 255, np.uint8)]), "png"),
        ],
        "jpeg": [picture(grey8, "jpeg"), picture(rgb, "jpeg")],
        "bmp": [picture(grey8, "bmp"), picture(rgb, "bmp")],
        "tiff": [
            picture(grey8, "tiff"),
            picture(rgb, "tiff", compression="tiff_lzw"),
            picture(grey16, "tiff", compression="tiff_adobe_deflate"),
            picture(cine, "tiff", save_all=True),
        ],
        "npy": [array(v) for v in (grey8, rgb, volume, volume.astype(np.float32), grey8 > 9)],
        "npz": [
            zipped({"a.npy": array(grey8)}),
            zipped({"a.npy": array(volume)}, packed=True),
            zipped({"train_images.npy": array(cine), "train_labels.npy": array(np.arange(4)[:, None] % 2)}),
        ],
        "zip": [
            zipped({"a.png": picture(grey8, "png"), "b/c.nii": nifti()}),
            zipped({"a/1.dcm": dicom(grey16), "labels.csv": b"path,label\na/1.dcm,x\n"}, packed=True),
        ],
    }
