"""Every DICOM file that pydicom is itself tested with is read as pydicom reads it, or refused with a reason.

With the package ``pydicom-data`` installed its files are among them.
"""

import importlib.util
import os
from pathlib import Path

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.data import get_testdata_files
from pydicom.pixels import pixel_array
from short_runs import PROJECT

from vitmed.scans import dicom_header, dicom_pixels, dicom_stack
from vitmed.scans.find import find
from vitmed.scans.how import INCLUDABLE, How
from vitmed.scans.read import read
from vitmed.scans.scan import Refused

spec = importlib.util.spec_from_file_location("dicom_page", PROJECT / "docs" / "dicom.py")
page = importlib.util.module_from_spec(spec)
spec.loader.exec_module(page)

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")
FILES = sorted({f for f in get_testdata_files() if os.path.isfile(f)})

# Objects that hold pixels and are no scans, or slices of nobody knows what: refused although pydicom can
# decode them.
NO_SCANS = (
    "DICOM without a SeriesInstanceUID",
    "segmentation, not a scan",
    "segmentation of no scan here",
    "radiotherapy object, not a scan",
)

# Of each way to store pixels that has a decoder here, files that come with pydicom itself.
DECODED = (
    ("SC_rgb_jpeg_dcmtk.dcm", uid.JPEGBaseline8Bit),
    ("SC_rgb_small_odd_jpeg.dcm", uid.JPEGBaseline8Bit),
    ("SC_rgb_jpeg_gdcm.dcm", uid.JPEGLosslessSV1),
    ("MR_small_jpeg_ls_lossless.dcm", uid.JPEGLSLossless),
    ("MR_small_jp2klossless.dcm", uid.JPEG2000Lossless),
    ("JPEG2000.dcm", uid.JPEG2000),
    ("MR_small_RLE.dcm", uid.RLELossless),
    ("SC_rgb_rle_16bit_2frame.dcm", uid.RLELossless),
    ("image_dfl.dcm", uid.DeflatedExplicitVRLittleEndian),
    ("MR_small_bigendian.dcm", uid.ExplicitVRBigEndian),
)


def theirs(path, frame, frames):
    """One frame by pydicom alone, or why it has none."""
    try:
        data = pydicom.dcmread(path, force=True)
        if "TransferSyntaxUID" not in data.file_meta:  # as pydicom's own documentation advises
            data.file_meta.TransferSyntaxUID = pydicom.uid.ImplicitVRLittleEndian
        if "Rows" not in data:
            return "no image"
        return pixel_array(data, index=frame) if frames > 1 else data.pixel_array
    except Exception as error:
        return f"{type(error).__name__}: {error}"


@pytest.mark.parametrize("path", FILES, ids=[os.path.relpath(f, Path(f).parents[2]) for f in FILES])
def test_pixels_are_what_pydicom_decodes_or_there_is_a_reason(path):
    """Otherwise a real file crashes the reader, is lost without a word, or has other values than it holds."""
    outcome = page.READ
    try:
        image = dicom_header.look(path, INCLUDABLE)
    except Refused as fault:
        assert fault.reason
        found, outcome = theirs(path, 0, 1), fault.reason
        assert isinstance(found, str) or fault.reason in NO_SCANS, f"refused ({fault}), and pydicom reads it"
    else:
        for frame in sorted({0, image.frames // 2, image.frames - 1}):
            wanted = theirs(path, frame, image.frames)
            try:
                ours = dicom_pixels.decode(image, frame)
            except Refused as fault:
                outcome = fault.reason
                assert isinstance(wanted, str), f"refused ({fault}), and pydicom reads it"
                continue
            assert not isinstance(wanted, str), wanted
            np.testing.assert_array_equal(ours, wanted)
            assert ours.dtype.isnative and ours.dtype.itemsize == wanted.dtype.itemsize
    if page.versions() in page.PAGE.read_text() and (row := page.kept().get(page.called(Path(path)))):
        assert row[1] == outcome


@pytest.mark.parametrize(("name", "syntax"), DECODED, ids=[name for name, _ in DECODED])
def test_each_way_to_store_pixels_has_its_decoder(name, syntax):
    """Otherwise a missing or broken decoder passes above as a file that pydicom cannot read either."""
    path = pydicom.data.get_testdata_file(name, download=False)
    image = dicom_header.look(path, INCLUDABLE)
    assert image.syntax == syntax
    for frame in range(image.frames):
        wanted = theirs(path, frame, image.frames)
        assert not isinstance(wanted, str), wanted
        np.testing.assert_array_equal(dicom_pixels.decode(image, frame), wanted)


def test_a_syntax_without_decoder_is_told():
    """Otherwise whole files are counted as broken, and looked for again."""
    path = pydicom.data.get_testdata_file("JPGExtended.dcm", download=False)
    with pytest.raises(Refused, match="without decoder: JPEG Extended .* of 12 bits"):
        dicom_pixels.decode(dicom_header.look(path, INCLUDABLE))


def test_the_page_is_of_all_files_and_counts_them():
    """Otherwise docs/dicom.md leaves out what it would rather not show."""
    written = page.PAGE.read_text()
    if page.versions() in written:  # of other versions the files are others
        assert list(page.kept()) == [page.called(path) for path in page.files()]
        assert page.page(page.kept()) == written
    assert f"Of {len(page.kept())} files" in written


@pytest.mark.parametrize("name", ["MR_small_RLE.dcm", "rtdose.dcm", "JPGExtended.dcm", "no_meta.dcm"])
def test_a_row_of_the_page_is_what_becomes_of_the_file(name):
    """Otherwise the page is that of an older reader; of all files, the test of their pixels holds it to the outcome."""
    path = Path(pydicom.data.get_testdata_file(name, download=False))
    assert page.row(path) == page.kept()[page.called(path)]


def test_the_folder_is_read_whole_and_everything_left_out_has_a_reason():
    """Otherwise one odd file among hundreds ends the ingest, or vanishes from the datasheet."""
    root = Path(pydicom.__file__).parent / "data" / "test_files"
    sources, refused = find(root, how=How(include=INCLUDABLE))
    told = {name for name, _, _ in refused}
    read_files = {os.path.relpath(f, root) for s in sources for f in s.files}
    beside = (".txt", ".json", ".md", ".py", ".pyc")
    for path in root.rglob("*"):
        name = path.relative_to(root).as_posix()
        if path.is_file() and not name.endswith(beside) and path.name.lower() not in ("dicomdir", "readme"):
            assert name in told or name in read_files, name
    assert all(reason for _, reason, _ in refused)
    scans, faults = [], []
    for source in sources:
        try:
            scans.append(read(source))
        except Refused as fault:
            faults.append(fault.reason)
    assert len(scans) > 60 and "cannot be read" not in faults
    assert all(np.isfinite(s.array).all() for s in scans)


def test_an_enhanced_file_is_a_volume_with_its_own_geometry():
    """Otherwise a multi-frame CT or MR is a film without spacing."""
    path = pydicom.data.get_testdata_file("eCT_Supplemental.dcm", download=False)
    if path is None:
        pytest.skip("eCT_Supplemental.dcm is in the package pydicom-data")
    (source,), refused = find(Path(path))
    assert refused == []
    image = dicom_header.look(path)
    order, affine = dicom_stack.order(list(source.parts))
    assert sorted(order) == [0, 1] and image.frames == 2
    shared = pydicom.dcmread(path).SharedFunctionalGroupsSequence[0]
    in_plane = [float(v) for v in shared.PixelMeasuresSequence[0].PixelSpacing]
    np.testing.assert_allclose(np.linalg.norm(affine[:3, :3], axis=0), (10, *in_plane), rtol=1e-6)


def test_cine_ultrasound_is_frames():
    """Otherwise a film is refused, or taken for a volume."""
    path = pydicom.data.get_testdata_file("examples_ybr_color.dcm", download=False)
    sources, _ = find(Path(path))
    assert len(sources) == 30 and sources[7].id == "examples_ybr_color.dcm#0007"
    np.testing.assert_array_equal(read(sources[7]).array, pixel_array(path, index=7))
    few, _ = find(Path(path), how=How(frames=3))
    assert [s.item for s in few] == [("frame", 0), ("frame", 14), ("frame", 29)]
    none, refused = find(Path(path), how=How(frames="refuse"))
    assert not none and refused[0][1] == "several images in one file"
