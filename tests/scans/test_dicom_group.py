"""Which images of a series make one volume."""

import functools
import os

import numpy as np
import pydicom
import pytest
from pydicom import uid
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset
from pydicom.filebase import DicomBytesIO, DicomFileLike
from pydicom.filewriter import write_data_element, write_dataset

from vitmed.errors import MachineError
from vitmed.scans.find import find
from vitmed.scans.how import How
from vitmed.scans.read import read
from vitmed.scans.scan import Refused

MR = {"Modality": "MR", "RescaleIntercept": None, "RescaleSlope": None}


def two(tmp_path, dicom, rng, apart, position=lambda k, which: (0, 0, 2 * k)):
    """A series of two volumes of 5 slices, whose slices lie between one another; ``apart(which)`` gives tags."""
    volumes = rng.integers(0, 1000, (2, 5, 4, 6)).astype(np.int16)
    (tmp_path / "s").mkdir()
    for k in range(5):
        for which in range(2):
            tags = {"position": position(k, which), **MR, **apart(which)}
            dicom(tmp_path / "s" / f"{(3 * k + which) % 7}{k}{which}", volumes[which, k], **tags)
    found, refused = find(tmp_path)
    assert refused == []
    return found, volumes


@pytest.mark.parametrize(
    ("apart", "names"),
    [
        (lambda w: {"EchoNumbers": w + 1, "EchoTime": 10.0 * w}, ["s#echo-1", "s#echo-2"]),
        (lambda w: {"EchoTime": 10.0 + 70 * w}, ["s#echo-10", "s#echo-80"]),
        (lambda w: {"EchoNumbers": 1, "EchoTime": 10.0 + 70 * w}, ["s#echo-10", "s#echo-80"]),
        (lambda w: {"EchoNumbers": 1, "EchoTime": 1.15 + 1.15 * w}, ["s#echo-1.15", "s#echo-2.3"]),
        (lambda w: {"DiffusionBValue": 1000.0 * w}, ["s#b-0", "s#b-1000"]),
        (lambda w: {"TemporalPositionIdentifier": w + 1}, ["s#time-1", "s#time-2"]),
        (lambda w: {"AcquisitionNumber": w + 1}, ["s#acquisition-1", "s#acquisition-2"]),
        (lambda w: {"ImageType": ["ORIGINAL", "PRIMARY", "MP"[w]]}, ["s#type-M", "s#type-P"]),
    ],
)
def test_volumes_of_one_series_are_told_apart(tmp_path, dicom, rng, apart, names):
    """Otherwise two echoes, weightings, times or acquisitions are shuffled into one volume, or all refused."""
    found, volumes = two(tmp_path, dicom, rng, apart)
    assert [s.id for s in found] == names
    for source, volume in zip(found, volumes, strict=True):
        np.testing.assert_array_equal(read(source).array[..., 0], volume)


@pytest.mark.parametrize("number", [None, 1])
def test_the_time_of_an_echo_may_be_rounded_otherwise_from_slice_to_slice(tmp_path, dicom, rng, number):
    """Otherwise every other slice of one echo is stored as a whole volume, of twice the spacing."""
    times = ((4.6, 4.603), (80.0, 80.4))
    volumes = rng.integers(0, 1000, (2, 6, 4, 6)).astype(np.int16)
    (tmp_path / "s").mkdir()
    for k in range(6):
        for echo in range(2):
            tags = {**MR, "EchoNumbers": number, "EchoTime": times[echo][k % 2]}
            dicom(tmp_path / "s" / f"{echo}{k}", volumes[echo, k], position=(0, 0, 2 * k), **tags)
    found, _ = find(tmp_path)
    assert [s.id for s in found] == ["s#echo-4.6", "s#echo-80"]
    for source, volume in zip(found, volumes, strict=True):
        np.testing.assert_array_equal(read(source).array[..., 0], volume)


@pytest.mark.parametrize("kinds", ["M", "MP"])
def test_a_time_that_depends_on_the_slice_does_not_take_a_volume_in_pieces(tmp_path, dicom, rng, kinds):
    """Otherwise pieces of a volume of one echo, each slice of which has its own shortest time, are volumes."""
    volumes = rng.integers(0, 1000, (len(kinds), 6, 4, 6)).astype(np.int16)
    (tmp_path / "s").mkdir()
    for which, kind in enumerate(kinds):
        for k in range(6):
            tags = {**MR, "EchoTime": 2.0 + 0.1 * (k % 3), "ImageType": ["ORIGINAL", "PRIMARY", kind]}
            dicom(tmp_path / "s" / f"{kind}{k}", volumes[which, k], position=(0, 0, 2 * k), **tags)
    found, _ = find(tmp_path)
    assert len(found) == len(kinds)
    for source, volume in zip(found, volumes, strict=True):
        np.testing.assert_array_equal(read(source).array[..., 0], volume)


MAKERS = [
    ("SIEMENS MR HEADER", 0x0019, 0x0C, "IS", lambda b: str(b)),
    ("Philips Imaging DD 001", 0x2001, 0x03, "FL", float),
    ("GEMS_PARM_01", 0x0043, 0x39, "IS", lambda b: [1_000_000_000 + b, 8, 0, 0]),
]


@pytest.mark.parametrize("block", [0x10, 0x11])
@pytest.mark.parametrize("syntax", [uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian, "UN"])
@pytest.mark.parametrize(("maker", "group", "element", "vr", "kept"), MAKERS, ids=[m[0] for m in MAKERS])
def test_makers_own_b_values_tell_volumes_apart(
    tmp_path, dicom, rng, maker, group, element, vr, kept, syntax, block
):
    """Otherwise older diffusion series, whose b-values lie in private elements, are refused or mixed."""

    def weigh(path, b):
        data = pydicom.dcmread(path)
        data.add_new((group, block), "LO", maker)
        data.add_new((group, block << 8 | element), vr, kept(b))
        data.file_meta.TransferSyntaxUID = uid.ExplicitVRLittleEndian if syntax == "UN" else syntax
        if syntax == "UN":  # as archives write private elements that they do not know
            raw = DicomBytesIO()
            raw.is_little_endian, raw.is_implicit_VR = True, True
            write_data_element(raw, data[group, block << 8 | element])
            data[group, block << 8 | element] = DataElement(
                (group, block << 8 | element), "UN", raw.getvalue()[8:]
            )
        data.save_as(path, implicit_vr=syntax == uid.ImplicitVRLittleEndian, little_endian=True)

    volumes = rng.integers(0, 1000, (2, 3, 4, 6)).astype(np.int16)
    (tmp_path / "s").mkdir()
    for k in range(3):
        for which, b in enumerate((0, 800)):
            weigh(dicom(tmp_path / "s" / f"{k}{which}", volumes[which, k], position=(0, 0, k), **MR), b)
    found, _ = find(tmp_path)
    assert [s.id for s in found] == ["s#b-0", "s#b-800"]
    for source, volume in zip(found, volumes, strict=True):
        np.testing.assert_array_equal(read(source).array[..., 0], volume)


def test_orientations_of_one_series_are_told_apart(tmp_path, dicom, rng):
    """Otherwise a series with a coronal reformat beside the axial slices is lost, or worse, mixed."""
    sagittal = {"orientation": (0, 1, 0, 0, 0, -1)}
    found, volumes = two(
        tmp_path,
        dicom,
        rng,
        lambda which: sagittal if which else {},
        lambda k, which: (2 * k, 0, 0) if which else (0, 0, 2 * k),
    )
    assert [s.id for s in found] == ["s#axial", "s#sagittal"]
    np.testing.assert_array_equal(read(found[0]).array[..., 0], volumes[0])
    assert read(found[0]).orientation == "SPL" and read(found[1]).orientation == "RIP"


def test_acquisitions_one_after_the_other_are_one_volume(tmp_path, dicom, rng):
    """Otherwise a CT of many rotations falls into as many pieces."""
    volume = rng.integers(0, 1000, (8, 4, 6)).astype(np.int16)
    (tmp_path / "s").mkdir()
    for k in range(8):
        dicom(tmp_path / "s" / f"{k}", volume[k], position=(0, 0, k), AcquisitionNumber=k // 4)
    (source,), refused = find(tmp_path)
    assert refused == [] and read(source).size == (8, 4, 6)


def test_a_slice_that_was_sent_twice_does_not_take_an_interleaved_series_in_half(tmp_path, dicom, rng):
    """Otherwise its even slices are stored as a whole volume, of twice the spacing."""
    (tmp_path / "s").mkdir()
    for k in range(13):
        slot = k if k < 12 else 4  # the last is another image at the place of the fifth
        tags = {"position": (0, 0, 3 * slot), **MR, "AcquisitionNumber": slot % 2 + 1 if k < 12 else 2}
        dicom(tmp_path / "s" / f"{k:02}", rng.integers(0, 1000, (4, 6)).astype(np.int16), **tags)
    found, refused = find(tmp_path)
    assert [s.id for s in found] == ["s"] and refused == []
    with pytest.raises(Refused, match="place|position|slice"):
        read(found[0])


def test_kinds_of_image_are_apart_wherever_they_lie(tmp_path, dicom, rng):
    """Otherwise projections that lie askew of the slices, two at one place, take the volume with them."""
    (tmp_path / "s").mkdir()
    volume = rng.integers(0, 1000, (6, 4, 6)).astype(np.int16)
    for k in range(6):
        tags = {"position": (0, 0, 3 * k), **MR, "ImageType": ["ORIGINAL", "PRIMARY", "M"]}
        dicom(tmp_path / "s" / f"{k:02}", volume[k], **tags)
    for k in range(3):
        place = (0, 0, 3 * k if k < 1 else 100 + k)
        dicom(
            tmp_path / "s" / f"p{k}", volume[k], position=place, **MR, ImageType=["DERIVED", "PRIMARY", "MIP"]
        )
    found, _ = find(tmp_path)
    assert [s.id for s in found] == ["s#type-M", "s#type-MIP"]
    np.testing.assert_array_equal(read(found[0]).array[..., 0], volume)


def test_the_phases_of_a_heart_are_volumes_though_their_times_differ_from_slice_to_slice(
    tmp_path, dicom, rng
):
    """Otherwise every slice is a picture of its own, and the volumes beside them cannot be ingested."""
    volumes = rng.integers(0, 1000, (3, 4, 4, 6)).astype(np.int16)
    (tmp_path / "s").mkdir()
    for phase in range(3):
        for k in range(4):
            tags = {"position": (0, 0, 8 * k), **MR, "TriggerTime": 30.0 * phase + 0.5 * k}
            dicom(tmp_path / "s" / f"{(5 * phase + 3 * k) % 7}{phase}{k}", volumes[phase, k], **tags)
    found, refused = find(tmp_path)
    assert [s.id for s in found] == ["s#phase-1", "s#phase-2", "s#phase-3"] and refused == []
    for source, volume in zip(found, volumes, strict=True):
        np.testing.assert_array_equal(read(source).array[..., 0], volume)


def test_radiographs_of_one_series_are_images_of_their_own(tmp_path, dicom, rng):
    """Otherwise the four views of a mammogram are refused as a volume without positions."""
    for k in range(4):
        pixels = rng.integers(0, 1000, (4, 6)).astype(np.uint16)
        dicom(
            tmp_path / f"view{k}.dcm",
            pixels,
            **{**MR, "Modality": "MG"},
            ImagePositionPatient=None,
            ImageOrientationPatient=None,
        )
    found, refused = find(tmp_path)
    assert [s.id for s in found] == [f"view{k}.dcm" for k in range(4)] and refused == []


@pytest.mark.parametrize(
    ("ids", "names", "births", "told"),
    [
        (("p1", "p2"), ("Ann^A", "Ann^A"), ("", ""), "2 of them, by their ids"),
        (("", ""), ("Ann^A", "Bob^B"), ("19500101", "19500101"), "2 of them, by their names"),
        (("p1", ""), ("Ann^A", "Bob^B"), ("", ""), "2 of them, by their names"),
        (("", ""), ("Ann^A", "Ann^A"), ("19500101", "19600101"), "2 of them, by their dates of birth"),
        (("", ""), ("Ann^A", "Ann^A^^"), ("19500101", ""), None),
        (("", ""), ("ÅNN^A", "Ånn  A"), ("", ""), None),
        (("", ""), ("Ann^A", "Ann^A=山"), ("", ""), None),
        (("", ""), ("=山^A", "=川^A"), ("", ""), "2 of them, by their names"),
        (("p1", "p1"), ("Ann^A", "Ann^Anna"), ("", ""), None),
        ((None, ""), (None, ""), (None, ""), None),
    ],
)
def test_two_people_in_one_series_are_no_volume(tmp_path, series, rng, ids, names, births, told):
    """Otherwise halves of two people are one scan of nobody, which then leaks from one split to another.

    What is said of it holds neither names nor dates.
    """

    def change(k):
        return {
            "PatientID": ids[k % 2],
            "PatientName": names[k % 2],
            "SpecificCharacterSet": "ISO_IR 192",
            "PatientBirthDate": births[k % 2],
        }

    series(rng.integers(0, 999, (4, 4, 6)).astype(np.uint16), change)
    found, refused = find(tmp_path)
    if told is None:
        assert len(found) == 1 and refused == []
        assert not any(word in str(image.person) for image, _ in found[0].parts for word in ("nn", "1950"))
    else:
        assert found == [] and refused == [("stack", "several patients in one series", told)]


def test_the_same_image_twice_is_taken_once(tmp_path, dicom, series, rng):
    """Otherwise a copied file makes a volume of two slices at one position, and the series is lost."""
    files = series(rng.integers(0, 999, (4, 4, 6)).astype(np.uint16))
    (tmp_path / "stack" / "copy").write_bytes(open(files[1], "rb").read())
    (source,), refused = find(tmp_path)
    assert len(source.files) == 4 and refused[0][:2] == ("stack/copy", "the same image twice")


def test_an_enhanced_file_holds_volumes_by_its_functional_groups(tmp_path, enhanced, rng):
    """Otherwise frames come in the order of the file, with one slope for all, and echoes are mixed."""
    frames = rng.integers(0, 4096, (8, 4, 6)).astype(np.uint16)
    order = [2, 0, 3, 1]
    slopes = [1 + k for k in range(8)]

    def groups(k):
        return {
            "PlanePosition": {"ImagePositionPatient": [1, 2, 3.0 * order[k // 2]]},
            "MREcho": {"EffectiveEchoTime": 20.0 + 60 * (k % 2)},
            "PixelValueTransformation": {
                "RescaleSlope": slopes[k],
                "RescaleIntercept": 1,
                "RescaleType": "US",
            },
        }

    enhanced(tmp_path / "e.dcm", frames, groups, BitsStored=12, HighBit=11)
    found, refused = find(tmp_path)
    assert [s.id for s in found] == ["e.dcm#echo-20", "e.dcm#echo-80"] and refused == []
    for which, source in enumerate(found):
        scan = read(source)
        for k in range(4):
            frame = 2 * k + which
            wanted = frames[frame].astype(np.float32) * slopes[frame] + 1
            np.testing.assert_array_equal(scan.array[order[k], ..., 0], wanted)
        np.testing.assert_allclose(scan.spacing, (3, 0.5, 0.25))
        np.testing.assert_allclose(scan.affine @ [0, 0, 0, 1], (1, 2, 0, 1))


@pytest.mark.parametrize(
    ("name", "key", "values", "names"),
    [
        ("FrameContent", "StackID", ("1", "2"), ["stack-1", "stack-2"]),
        ("FrameContent", "TemporalPositionIndex", (1, 2), ["time-1", "time-2"]),
        ("FrameContent", "FrameAcquisitionNumber", (1, 2), ["acquisition-1", "acquisition-2"]),
        ("MRDiffusion", "DiffusionBValue", (0.0, 800.0), ["b-0", "b-800"]),
        (
            "CardiacSynchronization",
            "NominalCardiacTriggerDelayTime",
            (0.0, 40.5),
            ["trigger-0", "trigger-40.5"],
        ),
        ("MRImageFrameType", "FrameType", (["A", "B", "M"], ["A", "B", "P"]), ["type-M", "type-P"]),
    ],
)
def test_frames_of_one_place_are_told_apart(tmp_path, enhanced, rng, name, key, values, names):
    """Otherwise the weightings, times or phases of an enhanced file are refused as copies of one place."""
    frames = rng.integers(0, 999, (6, 4, 6)).astype(np.uint16)

    def groups(k):
        place = {"ImagePositionPatient": [0, 0, 3.0 * (k // 2)]}
        return {"PlanePosition": place, name: {key: values[k % 2]}}

    enhanced(tmp_path / "e.dcm", frames, groups)
    found, refused = find(tmp_path)
    assert [s.id for s in found] == [f"e.dcm#{name}" for name in names] and refused == []
    for which, source in enumerate(found):
        np.testing.assert_array_equal(read(source).array[..., 0], frames[which::2])


@pytest.mark.parametrize(
    ("name", "key", "values"),
    [
        ("FrameContent", "StackID", ["1", "2"]),
        ("FrameContent", "TemporalPositionIndex", [1, 2]),
        ("FrameContent", "FrameAcquisitionNumber", [1, 2]),
        ("MREcho", "EffectiveEchoTime", [10.0, 80.0]),
        ("MRDiffusion", "DiffusionBValue", [0.0, 800.0]),
        ("CardiacSynchronization", "NominalCardiacTriggerDelayTime", [0.0, 1.0]),
    ],
)
def test_several_values_where_a_frame_has_one_are_refused(tmp_path, enhanced, name, key, values):
    """Otherwise one damaged file among a thousand ends the ingest."""

    def groups(k):
        return {"PlanePosition": {"ImagePositionPatient": [0, 0, 3.0 * (k // 2)]}, name: {key: values}}

    enhanced(tmp_path / "e.dcm", np.ones((4, 4, 6), np.uint16), groups)
    found, refused = find(tmp_path)
    assert found == [] and refused == [
        ("e.dcm", "broken DICOM header", f"{key} of a frame is {values}, not one value")
    ]


@pytest.mark.parametrize(("text", "said"), [("{}.0", None), ("{} ms", "'10 ms', not a number")])
def test_a_number_that_is_written_as_text_is_one_or_is_refused(tmp_path, enhanced, text, said):
    """Otherwise the one file of a maker who did so ends the ingest of all, or its echoes are mixed."""

    def groups(k):
        return {"PlanePosition": {"ImagePositionPatient": [0, 0, 3.0 * (k // 2)]}, "MREcho": {}}

    path = enhanced(tmp_path / "e.dcm", np.ones((4, 4, 6), np.uint16), groups)
    data = pydicom.dcmread(path)
    for k, frame in enumerate(data.PerFrameFunctionalGroupsSequence):
        frame.MREchoSequence[0].add_new("EffectiveEchoTime", "LO", text.format(10 + 70 * (k % 2)))
    data.save_as(path)
    found, refused = find(tmp_path)
    if said is None:
        assert [s.id for s in found] == ["e.dcm#echo-10", "e.dcm#echo-80"] and refused == []
    else:
        detail = f"EffectiveEchoTime of a frame is {said}"
        assert found == [] and refused == [("e.dcm", "broken DICOM header", detail)]


def test_localisers_captures_and_reports_are_left_out_and_can_be_taken(tmp_path, dicom, rng):
    """Otherwise a plan of the scan, or a picture of a screen, is learned from as if it were a scan."""
    pixels = rng.integers(0, 1000, (4, 6)).astype(np.uint16)
    secondary = "1.2.840.10008.5.1.4.1.1.7"
    dicom(tmp_path / "scan", pixels, series="1")
    dicom(tmp_path / "loc", pixels, series="2", ImageType=["ORIGINAL", "PRIMARY", "LOCALIZER"])
    dicom(tmp_path / "scout", pixels, series="3", SeriesDescription="3-pl Scout")
    dicom(tmp_path / "screen", pixels, series="4", SOPClassUID=secondary)
    dicom(tmp_path / "dose", pixels, series="5", SOPClassUID=secondary, SeriesDescription="Dose Report")
    dicom(tmp_path / "sr", pixels, series="6", SOPClassUID="1.2.840.10008.5.1.4.1.1.88.67", Modality="SR")
    dicom(tmp_path / "seg", pixels, series="7", SOPClassUID="1.2.840.10008.5.1.4.1.1.66.4", Modality="SEG")
    dicom(
        tmp_path / "plan", pixels, series="8", SOPClassUID="1.2.840.10008.5.1.4.1.1.481.5", Modality="RTPLAN"
    )
    found, refused = find(tmp_path)
    assert [s.id for s in found] == ["scan"]
    assert {name: reason for name, reason, _ in refused} == {
        "loc": "localiser",
        "scout": "localiser",
        "screen": "secondary capture",
        "dose": "dose report",
        "sr": "dose report",
        "seg": "segmentation, not a scan",
        "plan": "radiotherapy object, not a scan",
    }
    taken, _ = find(tmp_path, how=How(include=("localiser", "secondary")))
    assert [s.id for s in taken] == ["loc", "scan", "scout", "screen"]


def test_files_need_neither_suffix_nor_preamble(tmp_path, dicom, rng):
    """Otherwise the discs of older scanners hold nothing."""
    pixels = rng.integers(0, 1000, (4, 6)).astype(np.uint16)
    path = dicom(tmp_path / "whole", pixels)
    data = pydicom.dcmread(path)
    (tmp_path / "whole").unlink()
    for name, implicit in (("IM0001", True), ("IM0002", False)):
        data.SOPInstanceUID, data.SeriesInstanceUID = f"1.{implicit:d}", f"2.{implicit:d}"
        with open(tmp_path / name, "wb") as file:
            bare = Dataset()
            bare.update({e.tag: e for e in data})
            out = DicomFileLike(file)
            out.is_implicit_VR, out.is_little_endian = implicit, True
            write_dataset(out, bare)
    found, refused = find(tmp_path)
    assert [s.id for s in found] == ["IM0001", "IM0002"] and refused == []
    for source in found:
        np.testing.assert_array_equal(read(source).array[..., 0], pixels.astype(int) - 1024)


@pytest.fixture
def many(tmp_path, series, monkeypatch):
    """Six slices that count as many, so that worker processes read their headers."""
    series(np.arange(6 * 16).reshape(6, 4, 4).astype(np.int16))
    monkeypatch.setattr("vitmed.scans.find._MANY", 1)
    return tmp_path


def test_headers_read_by_workers_give_the_same_scans(many):
    """Otherwise large folders hold other scans than small ones."""
    (one,), none = find(many, how=How(workers=1))
    (two,), neither = find(many, how=How(workers=2))
    assert one == two and one.parts == two.parts and none == neither == []


def test_a_worker_that_dies_of_a_header_is_told(many, monkeypatch):
    """Otherwise the person sees a fault of vitmed."""
    monkeypatch.setattr("vitmed.pool.begin", functools.partial(os._exit, 1))
    with pytest.raises(MachineError, match="a worker process died reading DICOM headers"):
        find(many, how=How(workers=2))
