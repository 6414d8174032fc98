"""DICOM segmentations become the mask of the series that they were drawn on, on its grid."""

import copy

import numpy as np
import pydicom
import pytest

from vitmed.scans import dicom_seg
from vitmed.scans.find import survey
from vitmed.scans.layout import Mask
from vitmed.scans.read import read
from vitmed.scans.scan import Refused

OBLIQUE = (0.8, 0.6, 0.0, 0.0, 0.0, -1.0)
VALUES = (("liver", 1), ("tumour", 2))


def blocks(shape=(5, 6, 8)):
    """Two boxes that do not touch, bool, in slices, rows, columns."""
    liver, tumour = np.zeros(shape, bool), np.zeros(shape, bool)
    liver[1:3, 1:3, 2:5], tumour[3:5, 4:6, 6:8] = True, True
    return liver, tumour


@pytest.fixture
def ct(series, rng):
    """A function that writes a series whose slices lie along z, or obliquely; returns its folder and file paths."""

    def write(orientation=None, folder="stack"):
        normal = np.cross(orientation[:3], orientation[3:]) if orientation else np.array([0, 0, 1.0])
        pixels = rng.integers(0, 1000, (5, 6, 8)).astype(np.uint16)

        def place(k):
            at = {"position": tuple(np.array([10, 20, 30]) + 2.0 * k * normal)}
            return at | ({"orientation": orientation} if orientation else {})

        return series(pixels, place, folder=folder)

    return write


def masks(folder):
    """What a folder's survey gives: its one scan, and the mask with values."""
    found = survey(folder)
    (source,) = found.sources
    mask = found.told.masks[source.id]
    return read(source), Mask(mask.files, segments=True, values=VALUES), found


@pytest.mark.parametrize("orientation", [None, OBLIQUE])
def test_segments_lie_where_they_were_drawn(tmp_path, ct, write_seg, orientation):
    """Otherwise a mask is flipped, shifted, or of another slice."""
    files = ct(orientation)
    liver, tumour = blocks()
    write_seg(
        tmp_path / "stack" / "seg.dcm",
        [("tumour", tumour), ("liver", liver)],
        orientation=orientation or (1, 0, 0, 0, 1, 0),
        instances=[pydicom.dcmread(f).SOPInstanceUID for f in files],
    )
    scan, mask, found = masks(tmp_path / "stack")
    assert found.refused == [] and found.told.segments[0].names == ("liver", "tumour")
    here = dicom_seg.read(mask, scan)
    for value, drawn in ((1, liver), (2, tumour)):
        assert (here == value).sum() == drawn.sum()
        index = np.argwhere(here == value).mean(0)
        at = scan.affine @ [*index, 1]
        row, column = (np.array(v) for v in np.split(np.array(orientation or (1, 0, 0, 0, 1, 0)), 2))
        k, r, c = np.argwhere(drawn).mean(0)
        truth = np.array([10, 20, 30]) + 2 * k * np.cross(row, column) + 0.5 * r * column + 0.25 * c * row
        np.testing.assert_allclose(at[:3], truth, atol=1e-6)


@pytest.fixture
def write_labelmap(write_seg):
    """A function that writes (slices, rows, columns) of segment numbers as a LABELMAP, empty slices left out."""

    def write(path, numbers, names, dtype=np.uint8, **tags):
        numbers = numbers.astype(dtype)
        drawn = [("frames", numbers != 0)]  # writes a frame for each slice that is not empty
        data = pydicom.dcmread(write_seg(path, drawn, **tags))
        data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.66.7"
        data.SegmentationType = "LABELMAP"
        data.BitsAllocated = data.BitsStored = 8 * numbers.itemsize
        data.HighBit = data.BitsStored - 1
        (item,) = data.SegmentSequence
        held = []
        for number, name in names.items():
            held.append(copy.deepcopy(item))
            held[-1].SegmentNumber, held[-1].SegmentLabel = number, name
        data.SegmentSequence = held
        for group in data.PerFrameFunctionalGroupsSequence:
            del group.SegmentIdentificationSequence
        data.PixelData = b"".join(plane.tobytes() for plane in numbers if plane.any())
        data["PixelData"].VR = "OB" if numbers.itemsize == 1 else "OW"
        data.save_as(path)
        return data

    return write


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("orientation", [None, OBLIQUE])
def test_a_labelmap_is_what_the_same_segments_are_as_bits(
    tmp_path, ct, write_seg, write_labelmap, dtype, orientation
):
    """Otherwise numbers of segments, which need not follow one another, pass for values of structures."""
    ct(orientation)
    liver, tumour = blocks()
    way = {"orientation": orientation} if orientation else {}
    path = tmp_path / "stack" / "s.dcm"
    write_seg(path, [("tumour", tumour), ("liver", liver)], **way)
    scan, mask, _ = masks(tmp_path / "stack")
    bits = dicom_seg.read(mask, scan)
    high = 250 if dtype == np.uint8 else 4000
    write_labelmap(path, 7 * liver + high * tumour, {high: "tumour", 7: "liver"}, dtype, **way)
    scan, mask, found = masks(tmp_path / "stack")
    assert found.refused == [] and found.told.segments[0].names == ("liver", "tumour")
    assert set(np.unique(bits)) == {0, 1, 2}
    np.testing.assert_array_equal(dicom_seg.read(mask, scan), bits)


def test_the_background_of_a_labelmap_is_no_structure(tmp_path, ct, write_labelmap):
    """Otherwise everything outside the organs is one more organ."""
    ct()
    liver, tumour = blocks()
    path = tmp_path / "stack" / "s.dcm"
    numbers = np.where(liver, 1, np.where(tumour, 2, 99))
    names = {99: "Background", 1: "liver", 2: "tumour"}
    data = write_labelmap(path, numbers, names)
    data.add_new("PixelPaddingValue", "US", 99)
    data.save_as(path)
    scan, mask, found = masks(tmp_path / "stack")
    assert found.told.segments[0].names == ("liver", "tumour")
    np.testing.assert_array_equal(dicom_seg.read(mask, scan), liver + 2 * tumour)


def test_a_labelmap_with_a_number_of_no_segment_is_refused(tmp_path, ct, write_labelmap):
    """Otherwise a structure that nobody named is lost as background."""
    ct()
    liver, tumour = blocks()
    write_labelmap(tmp_path / "stack" / "s.dcm", 1 * liver + 3 * tumour, {1: "liver", 2: "tumour"})
    scan, mask, _ = masks(tmp_path / "stack")
    with pytest.raises(Refused, match="numbers of no segment: 3 in its pixels"):
        dicom_seg.read(mask, scan)


def test_another_grid_is_brought_to_the_scans(tmp_path, ct, write_seg):
    """Otherwise a segmentation of half the resolution is refused, or lands at a quarter of its place."""
    ct()
    liver, _ = blocks()
    fine = liver.repeat(2, 1).repeat(2, 2)  # two rows and columns for each of the scan's
    write_seg(
        tmp_path / "stack" / "s.dcm",
        [("liver", fine)],
        position=(10 - 0.0625, 20 - 0.125, 30),
        spacing=(0.25, 0.125),
    )
    scan, mask, _ = masks(tmp_path / "stack")
    np.testing.assert_array_equal(dicom_seg.read(mask, scan), liver.astype(np.uint8))
    # Turned by half a turn about z, with rows and columns running the other way.
    write_seg(
        tmp_path / "stack" / "s.dcm",
        [("liver", liver[:, ::-1, ::-1])],
        position=(10 + 7 * 0.25, 20 + 5 * 0.5, 30),
        orientation=(-1, 0, 0, 0, -1, 0),
    )
    scan, mask, _ = masks(tmp_path / "stack")
    np.testing.assert_array_equal(dicom_seg.read(mask, scan), liver.astype(np.uint8))


def test_slices_left_out_are_empty(tmp_path, ct, write_seg):
    """Otherwise the slice between two drawn ones counts as drawn, or the mask is squeezed together."""
    ct()
    drawn = np.zeros((5, 6, 8), bool)
    drawn[0, 1, 1] = drawn[2, 2, 2] = drawn[4, 3, 3] = True
    path = write_seg(tmp_path / "stack" / "s.dcm", [("liver", drawn)])
    data = pydicom.dcmread(path)
    del data.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].SpacingBetweenSlices
    data.save_as(path)
    scan, mask, _ = masks(tmp_path / "stack")
    np.testing.assert_array_equal(dicom_seg.read(mask, scan), drawn.astype(np.uint8))


def test_several_files_make_one_mask(tmp_path, ct, write_seg):
    """Otherwise of an archive with a file for each structure one is taken and the rest is lost."""
    ct()
    liver, tumour = blocks()
    write_seg(tmp_path / "stack" / "a.dcm", [("liver", liver)])
    write_seg(tmp_path / "stack" / "b.dcm", [("tumour", tumour)])
    scan, mask, found = masks(tmp_path / "stack")
    assert len(mask.files) == 2 and len(found.told.segments) == 2
    np.testing.assert_array_equal(dicom_seg.read(mask, scan), liver + 2 * tumour)


def test_overlapping_segments_are_refused(tmp_path, ct, write_seg):
    """Otherwise whichever comes last wins, and the other loses voxels without a word."""
    ct()
    liver, tumour = blocks()
    for parts in (
        [[("liver", liver), ("tumour", tumour | liver)]],
        [[("liver", liver)], [("tumour", liver)]],
    ):
        for old in (tmp_path / "stack").glob("seg*"):
            old.unlink()
        for i, segments in enumerate(parts):
            write_seg(tmp_path / "stack" / f"seg{i}.dcm", segments)
        scan, mask, _ = masks(tmp_path / "stack")
        with pytest.raises(Refused, match="overlapping segments: liver and tumour, in"):
            dicom_seg.read(mask, scan)
    write_seg(tmp_path / "stack" / "seg0.dcm", [("liver", liver), ("liver", liver | tumour)])
    write_seg(tmp_path / "stack" / "seg1.dcm", [("liver", liver)])
    scan, mask, _ = masks(tmp_path / "stack")  # of one name, they are one structure
    np.testing.assert_array_equal(dicom_seg.read(mask, scan), liver | tumour)


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"SegmentationType": "FRACTIONAL"}, "segmentation that is neither BINARY nor LABELMAP"),
        ({"SegmentationType": None}, "segmentation, not a scan"),
        ({"SegmentSequence": None}, "segmentation without named segments"),
        ({"series": ""}, "segmentation of no scan here"),
        ({"series": "9.9"}, "segmentation of no scan here"),
        ({"PerFrameFunctionalGroupsSequence": None}, "segmentation without frames"),
    ],
)
def test_what_cannot_be_a_mask_is_refused(tmp_path, ct, write_seg, change, reason):
    """Otherwise a probability passes for a label, or a mask goes to a scan it was not drawn on."""
    ct()
    write_seg(tmp_path / "stack" / "s.dcm", [("liver", blocks()[0])], **change)
    found = survey(tmp_path / "stack")
    assert len(found.sources) == 1 and not found.told.masks
    assert [(n, r) for n, r, _ in found.refused] == [("s.dcm", reason)]


def test_images_that_are_referenced_decide(tmp_path, ct, write_seg):
    """Otherwise of two scans of one series (two echoes, two phases) the wrong one is masked."""
    first, second = ct(folder="x"), ct(folder="y")
    for file in second:
        data = pydicom.dcmread(file)
        data.EchoNumbers = 2
        data.save_as(file)
    uids = [pydicom.dcmread(f).SOPInstanceUID for f in second]
    write_seg(tmp_path / "s.dcm", [("liver", blocks()[0])], instances=uids)
    found = survey(tmp_path)
    (scan,) = found.told.masks
    assert len(found.sources) == 2
    assert set(next(s for s in found.sources if s.id == scan).files) == set(second) != set(first)
    write_seg(tmp_path / "s.dcm", [("liver", blocks()[0])])
    assert [r[1] for r in survey(tmp_path).refused] == ["segmentation of a series of several scans"]


def test_a_segmentation_elsewhere_or_broken_is_refused(tmp_path, ct, write_seg):
    """Otherwise an empty mask says that there is nothing to see."""
    ct()
    path = write_seg(tmp_path / "stack" / "s.dcm", [("liver", blocks()[0])], position=(900, 0, 0))
    scan, mask, _ = masks(tmp_path / "stack")
    with pytest.raises(Refused, match="mask that lies elsewhere"):
        dicom_seg.read(mask, scan)
    with open(path, "rb") as file:
        whole = file.read()
    with open(path, "wb") as file:
        file.write(whole[:-8])
    with pytest.raises(Refused):
        dicom_seg.read(mask, scan)
