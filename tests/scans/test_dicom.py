import numpy as np
import pydicom
import pytest
from pydicom.pixels import apply_windowing

from vitmed.scans import dicom as reader
from vitmed.scans.find import find
from vitmed.scans.scan import Refused


@pytest.fixture
def volume(rng):
    return rng.integers(0, 2000, (6, 4, 5)).astype(np.uint16)


def test_a_series_is_ordered_by_position_and_rescaled(series, volume):
    """Otherwise slices lie in the order of their file names, or a CT is not in Hounsfield units."""
    scan = reader.read(series(volume))
    np.testing.assert_array_equal(scan.array[..., 0], volume.astype(np.float32) - 1024)
    np.testing.assert_allclose(scan.spacing, (2, 0.5, 0.25))
    np.testing.assert_allclose(scan.affine @ [0, 0, 0, 1], (10, 20, 30, 1))
    np.testing.assert_allclose(scan.affine @ [5, 3, 4, 1], (11, 21.5, 40, 1))
    assert (scan.modality, scan.patient) == ("ct", "p1")


def test_a_sagittal_series_lies_like_an_axial_one(series, volume):
    """Otherwise volumes of one set have different axes."""
    files = series(volume, lambda k: {"orientation": (0, 1, 0, 0, 0, -1), "position": (30 + 2 * k, 0, 0)})
    scan = reader.read(files)
    np.testing.assert_allclose(scan.spacing, (0.5, 0.25, 2))
    np.testing.assert_array_equal(
        scan.array[..., 0], (volume.astype(np.float32) - 1024).transpose(1, 2, 0)[::-1]
    )
    np.testing.assert_allclose(scan.affine @ [scan.size[0] - 1, 0, 0, 1], (30, 0, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("change", "skip", "reason"),
    [
        (lambda k: {}, (2,), "missing slices"),
        (
            lambda k: {"position": (0, 0, 2 * k - 0.5 * (k == 5))},
            (),
            "uneven slices: 1.5 mm .* 2 mm is usual",
        ),
        (lambda k: {"position": (0, 0, 2 * k + 0.5 * (k == 5))}, (), "missing slices: 2.5 mm .* uneven"),
        (lambda k: {"position": (0, 0, 2 * (k // 2))}, (), "several slices at one position"),
        (lambda k: {"orientation": (0, 1, 0, 0, 0, -1)} if k == 3 else {}, (), "mixed orientation"),
        (lambda k: {"Modality": "MR"} if k == 3 else {}, (), "mixed Modality"),
        (lambda k: {"ImagePositionPatient": None} if k == 3 else {}, (), "slices without position"),
        (lambda k: {"position": (0, 0.5 * k, 2 * k)}, (), "sheared slices"),
        (lambda k: {"PixelSpacing": None}, (), "no voxel spacing"),
        (lambda k: {"RescaleIntercept": None, "RescaleSlope": None}, (), "CT without rescale"),
        (lambda k: {"RescaleType": ("HU", "EDW")[k % 2]}, (), "mixed RescaleType in one series: EDW and HU"),
        (lambda k: {"Modality": "MR", "RescaleType": ("ms", "US", "PCT")[k % 3]}, (), "mixed .*: PCT and ms"),
        (lambda k: {"PhotometricInterpretation": None}, (), "CT .* it has no PhotometricInterpretation"),
        (lambda k: {"NumberOfFrames": 2} if k == 1 else {}, (), "broken DICOM file: .* of pixels"),
    ],
)
def test_a_series_that_is_no_volume_is_refused_with_the_reason(series, volume, change, skip, reason):
    """Otherwise geometry is made up: a hole closed, two stacks interleaved, a tilt ignored."""
    with pytest.raises(Refused, match=reason):
        reader.read(series(volume, change, skip))


@pytest.mark.parametrize(
    ("modality", "told"), [("CT", ("HU", "US")), ("CT", ("HU", "HU_MOD", None)), ("MR", ("normalized", "US"))]
)
def test_names_of_one_unit_are_one_volume(series, volume, modality, told):
    """Otherwise a volume whose slices a converter wrote two ways is lost."""
    files = series(volume, lambda k: {"Modality": modality, "RescaleType": told[k % len(told)]})
    assert len(reader.read(files).array) == len(volume)


def test_sizes_that_differ_in_a_series_are_refused(series, volume, dicom, tmp_path):
    """Otherwise the stack fails with NumPy's words."""
    files = series(volume)
    odd = dicom(tmp_path / "odd", volume[0, :2], position=(10, 20, 60))
    with pytest.raises(Refused, match="mixed image sizes"):
        reader.read((*files, odd))


def test_a_broken_file_is_refused_by_name(dicom, volume, tmp_path):
    """Otherwise one truncated download ends the ingest of a thousand series."""
    path = dicom(tmp_path / "a.dcm", volume[0])
    with open(path, "rb") as file:
        whole = file.read()
    with open(path, "wb") as file:
        file.write(whole[:-20])
    with pytest.raises(Refused, match="broken DICOM file: a.dcm"):
        reader.read((path,))


def test_a_radiograph_has_its_window_and_is_bright_where_bone_is(dicom, tmp_path):
    """Otherwise MONOCHROME1 images are negatives among positives, and a few burnt pixels set the contrast."""
    pixels = np.array([[0, 1000], [3000, 4095]], np.uint16)
    plain = {
        "Modality": "DX",
        "RescaleIntercept": None,
        "RescaleSlope": None,
        "WindowCenter": 2000.5,
        "WindowWidth": 2001,
    }
    positive = reader.read((dicom(tmp_path / "a", pixels, **plain),))
    assert positive.array.shape == (2, 2, 1) and positive.span == (1000, 3000) and positive.modality == "xray"
    np.testing.assert_allclose(positive.spacing, (0.5, 0.25))
    negative = reader.read((dicom(tmp_path / "b", pixels, **plain, PhotometricInterpretation="MONOCHROME1"),))
    assert negative.span == (-3000, -1000)
    np.testing.assert_array_equal(negative.array, -positive.array.astype(np.float32))


def test_colours_have_no_window(dicom, tmp_path):
    """Otherwise a window that was left in the header clips them (PS3.3 C.11.2.1.2 gives one to greys alone)."""
    colours = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    window = {"WindowCenter": 60, "WindowWidth": 80}
    plain = {"Modality": "US", "RescaleIntercept": None, "RescaleSlope": None}
    scan = reader.read((dicom(tmp_path / "a", colours, **plain, **window),))
    assert scan.span == (0, 255)
    np.testing.assert_array_equal(scan.array, colours)


WINDOWS = [
    ({"WindowCenter": 2000.5, "WindowWidth": 2001}, (1000, 3000)),
    ({"WindowCenter": 2000, "WindowWidth": 2000, "VOILUTFunction": "LINEAR"}, (1000, 2999)),
    ({"WindowCenter": 2000, "WindowWidth": 2000, "VOILUTFunction": "LINEAR_EXACT"}, (1000, 3000)),
    ({"WindowCenter": 2000, "WindowWidth": 2000, "VOILUTFunction": "SIGMOID"}, (1000, 3000)),
    ({"WindowCenter": [2000.5, 40], "WindowWidth": [2001, 400]}, (1000, 3000)),
]


@pytest.mark.parametrize(("window", "span"), WINDOWS)
def test_a_window_is_that_of_its_function(dicom, enhanced, tmp_path, window, span):
    """Otherwise black and white lie elsewhere than the file says (PS3.3 C.11.2.1.2 and .3), in an enhanced one too.

    Of a sigmoid they are where its tangent at the centre reaches them, so that it differs from the line by an eighth.
    """
    plain = {
        "Modality": "DX",
        "RescaleIntercept": None,
        "RescaleSlope": None,
        "BitsStored": 12,
        "HighBit": 11,
    }
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    path = dicom(tmp_path / "a", pixels, **plain, **window)
    own = {"PlanePosition": {"ImagePositionPatient": [0, 0, 0]}, "FrameVOILUT": window}
    for file in (path, enhanced(tmp_path / "e", pixels[None], lambda k: own, **plain)):
        scan = reader.read((file,))
        assert scan.span == span
        shown = np.clip((scan.array[..., 0].astype(float) - span[0]) / (span[1] - span[0]), 0, 1)
        theirs = apply_windowing(pixels, pydicom.dcmread(path)) / 4095
        sigmoid = window.get("VOILUTFunction") == "SIGMOID"
        np.testing.assert_allclose(shown, theirs, atol=0.125 if sigmoid else 1e-6)


REGION = {
    "RegionSpatialFormat": 1,
    "PhysicalUnitsXDirection": 3,
    "PhysicalUnitsYDirection": 3,
    "PhysicalDeltaX": 0.02,
    "PhysicalDeltaY": -0.03,
}


@pytest.mark.parametrize(
    ("regions", "spacing"),
    [
        ([REGION], (0.3, 0.2)),
        ([REGION, {**REGION, "RegionSpatialFormat": 3}], (0.3, 0.2)),  # a spectrum of Doppler beside it
        ([REGION, REGION], None),
        ([{**REGION, "PhysicalUnitsXDirection": 4}], None),  # seconds: an M-mode
    ],
)
def test_the_spacing_of_ultrasound_is_that_of_its_region(dicom, tmp_path, rng, regions, spacing):
    """Otherwise ultrasound is in centimetres, its axes are swapped, or a time axis passes for a length."""
    items = []
    for region in regions:
        items.append(pydicom.Dataset())
        for name, value in region.items():
            setattr(items[-1], name, value)
    tags = {"Modality": "US", "RescaleIntercept": None, "RescaleSlope": None, "PixelSpacing": None}
    pixels = rng.integers(0, 256, (4, 6)).astype(np.uint8)
    scan = reader.read((dicom(tmp_path / "a", pixels, **tags, SequenceOfUltrasoundRegions=items),))
    assert scan.spacing == (None if spacing is None else pytest.approx(spacing))


def test_the_spacing_of_a_radiograph_is_at_the_patient_where_that_is_known(dicom, tmp_path, rng):
    """Otherwise what was calibrated counts less than the detector, or a radiograph has no size at all."""
    tags = {
        "Modality": "DX",
        "RescaleIntercept": None,
        "RescaleSlope": None,
        "ImagerPixelSpacing": [0.2, 0.1],
    }
    pixels = rng.integers(0, 999, (4, 6)).astype(np.uint16)
    assert reader.read((dicom(tmp_path / "a", pixels, **tags),)).spacing == (0.5, 0.25)
    detector = dicom(tmp_path / "b", pixels, **tags, PixelSpacing=None)
    assert reader.read((detector,)).spacing == (0.2, 0.1)


def test_colour_dicom_of_grey_is_grey(dicom, tmp_path, rng):
    """Otherwise ultrasound from two scanners has one channel and three."""
    grey = rng.integers(0, 256, (4, 5)).astype(np.uint8)
    path = dicom(
        tmp_path / "a", np.dstack([grey] * 3), Modality="US", RescaleIntercept=None, RescaleSlope=None
    )
    scan = reader.read((path,))
    assert scan.array.shape == (4, 5, 1) and scan.span == (0, 255) and scan.modality == "ultrasound"


def test_series_are_found_and_named(tmp_path, dicom, series, volume):
    """Otherwise slices are taken for scans, or two series in a folder for one; files need no suffix."""
    series(volume, folder="alone")
    for k in range(3):
        for which in "ab":
            (tmp_path / "two").mkdir(exist_ok=True)
            dicom(
                tmp_path / "two" / f"{which}{k}.dcm", volume[k], series=f"1.{ord(which)}", position=(0, 0, k)
            )
    dicom(tmp_path / "single", volume[0], series="1.9", Modality="DX")
    dicom(tmp_path / "plan.dcm", volume[0], series="1.10", Modality="SR")
    (tmp_path / "junk.dcm").write_text("junk")
    (tmp_path / "notes.txt").write_text("not a scan")
    (tmp_path / "what.xyz").write_text("what is this")
    found, refused = find(tmp_path)
    assert [(s.id, len(s.files)) for s in found] == [
        ("alone", 6),
        ("single", 1),
        ("two/a0.dcm", 3),
        ("two/b0.dcm", 3),
    ]
    assert {(file, reason) for file, reason, _ in refused} == {
        ("junk.dcm", "not a readable DICOM file"),
        ("plan.dcm", "structured document"),
        ("what.xyz", "of no format that vitmed reads"),
    }
