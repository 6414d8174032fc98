"""What a header may say, and in which words: ITK opens whatever file it names."""

import numpy as np
import pytest
import SimpleITK as sitk

from vitmed.scans import itk, itk_header
from vitmed.scans.scan import Refused

META = (
    "ObjectType = Image\nNDims = 3\nDimSize = 2 3 4\nElementType = MET_UCHAR\nElementSpacing = 1 1 2\n"
    "TransformMatrix = 1 0 0 0 1 0 0 0 1\n"
)
NRRD = (
    "NRRD0004\ntype: uint8\ndimension: 3\nspace: LPS\nsizes: 2 3 4\nspace directions: (1,0,0) (0,1,0) (0,0,2)\n"
    "encoding: raw\n"
)
OUTSIDE = "data file outside its folder"
ODD = "not a readable volume: line 7 of its header"


@pytest.fixture
def folder(tmp_path):
    """Voxels inside it and above it, and beside them a link to those above."""
    folder = tmp_path / "in"
    folder.mkdir()
    (tmp_path / "secret.raw").write_bytes(bytes(24))
    (folder / "link.raw").symlink_to(tmp_path / "secret.raw")
    (folder / "-").write_bytes(bytes(24))
    (folder / "my scan.raw").write_bytes(bytes(range(24)))
    return folder


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("ElementDataFile = ../secret.raw\n", OUTSIDE),
        ("ElementDataFile : ../secret.raw\n", OUTSIDE),
        ("\tElementDataFile:../secret.raw\n", OUTSIDE),
        ("ElementDataFile =: ../secret.raw\n", OUTSIDE),
        ("ElementDataFile = link.raw\n", OUTSIDE),
        ("Comment = a longer one of many\n" * 4000 + "ElementDataFile = ../secret.raw\n", OUTSIDE),
        ("ElementDataFile\n= ../secret.raw\n", f"{ODD} is no 'key = value'"),
        ("ElementDataFile\r= ../secret.raw\n", f"{ODD} is not text"),
        ("ElementDataFile\0= ../secret.raw\n", f"{ODD} is not text"),
        # A line of too few numbers goes on in the next, which is then no data file.
        ("Offset = 1 1\nElementDataFile = my scan.raw\nElementDataFile = ../secret.raw\n", ".* twice"),
        ("ElementSize = 1\nElementDataFile = LOCAL\nElementDataFile = ../secret.raw\n", ".* twice"),
        ("ElementSize = 1\nElementDataFile = LOCAL\n\fElementDataFile\n= ../secret.raw\n", ".* twice"),
        # What Python takes for a blank and ITK does not, and the other way about.
        ("\x1cElementDataFile = LOCAL\nElementDataFile = ../secret.raw\n", OUTSIDE),
        ("\vElementDataFile = ../secret.raw\nElementDataFile = LOCAL\n", OUTSIDE),
        # MetaIO cuts it off, and then opens link.raw.
        ("ElementDataFile = link.raw\x1b\n", "data file missing: its name"),
        ("ElementDataFile = link.raw\x85\n", "data file missing: its name"),
        ("ElementDataFile = LIST\n../secret.raw\n", "volume of several files"),
        ("ElementDataFile = %d.raw 1 4 1\n", "volume of several files"),
        ("Comment = none\n", ".* does not say ElementDataFile"),
        ("a" + " " * 10**6 + "\n", f"{ODD} is no 'key = value'"),  # at once
        ("Comment = a longer one of many\n" * 40000, ".* does not end within"),
    ],
)
def test_a_metaimage_is_read_from_its_folder_alone(folder, more, reason):
    """Otherwise a file of somebody else's folder, or machine, is in the dataset."""
    (folder / "a.mhd").write_text(META + more, newline="")
    with pytest.raises(Refused, match=reason):
        itk.read(str(folder / "a.mhd"))


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ("data file: ../secret.raw\n", OUTSIDE),
        ("DataFile: ../secret.raw\n", OUTSIDE),
        ("data file: link.raw\n", OUTSIDE),
        ("data file: link.raw \n", "data file missing: its name"),  # ITK keeps the blank
        ("data file: ../secret.raw:=v\n", OUTSIDE),
        ("data file: -\n", OUTSIDE),
        ("# a longer one of many\n" * 4000 + "data file: ../secret.raw\n", OUTSIDE),
        ("# a\rdata file: ../secret.raw\n", "not a readable volume: line 8 of its header is not text"),
        ("a:=b\rdata file: ../secret.raw\n", "not a readable volume: line 8 of its header is not text"),
        ("data file: %d.raw 1 4 1\n", "volume of several files"),
        ("data file: LIST\n", "volume of several files"),
        ("content: a" + " " * 10**6 + "a\n", "data file missing: the header names none"),  # at once
        ("# none\n", "data file missing: the header names none"),
        ("# a longer one of many\n" * 50000, ".* does not end within"),
    ],
)
def test_an_nrrd_is_read_from_its_folder_alone(folder, more, reason):
    """Otherwise a file of somebody else's folder is in the dataset, or the ingest waits for its standard input."""
    (folder / "a.nhdr").write_text(NRRD + more, newline="")
    with pytest.raises(Refused, match=reason):
        itk.read(str(folder / "a.nhdr"))


@pytest.mark.parametrize("field", ["type: ", "units: ", "kinds: ", "no field of any name", "data file: "])
def test_a_line_that_itk_has_no_room_for_is_refused(folder, field):
    """Otherwise ITK writes its complaint over its own memory, and the process dies."""
    (folder / "a.nhdr").write_text(NRRD + field + "x" * 10_000 + "\ndata file: my scan.raw\n")
    with pytest.raises(Refused, match="not a readable volume: line 8 of its header"):
        itk.read(str(folder / "a.nhdr"))


def test_what_it_says_of_a_broken_header_can_be_written(folder):
    """Otherwise a byte that is not UTF-8 stands raw in the datasheet, which then has no page."""
    (folder / "a.nrrd").write_bytes(NRRD.encode() + b"old min: 5\xff\n\n" + bytes(24))
    with pytest.raises(Refused, match=r"old min is 5\\udcff; store") as fault:
        itk.read(str(folder / "a.nrrd"))
    assert fault.value.args == (fault.value.reason, fault.value.detail)


def test_copied_text_is_passed_over(folder):
    """Otherwise scans whose header holds a Japanese name, or words of the format itself, are lost."""
    name = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B\f"
    (folder / "a.mha").write_bytes(
        META.encode()
        + b"0010|0010 = %s\nComment = ElementDataFile = LOCAL\nElementDataFile = LOCAL\n" % name
        + bytes(range(24))
    )
    (folder / "a.nrrd").write_bytes(
        NRRD.encode() + b"# %s\n0010|0010:=%s\nmy:key:=a: b\n\n" % (name, name) + bytes(range(24))
    )
    for file in ("a.mha", "a.nrrd"):
        np.testing.assert_array_equal(itk.read(str(folder / file)).array.ravel(), range(24))


@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_a_name_with_a_space_is_one_file(folder, end):
    """Otherwise what Windows users write is refused as several files."""
    for name, text in (
        ("a.mhd", META + "Comment : a = b\n\nElementDataFile = my scan.raw\n"),
        ("a.nhdr", NRRD + "# a: b\na note:=b: c\ncontent: " + "x" * 2000 + "\ndata file: my scan.raw\n"),
    ):
        (folder / name).write_text(text, newline=end)
        np.testing.assert_array_equal(itk.read(str(folder / name)).array.ravel(), range(24))


def test_the_content_is_what_the_name_says(folder):
    """Otherwise a header is checked as one format and read as another, which ITK finds by what a file holds."""
    (folder / "a.mha").write_text(NRRD + "data file: ../secret.raw\nElementDataFile = LOCAL\n")
    (folder / "a.nrrd").write_text(META + "ElementDataFile = ../secret.raw\n")
    for name in ("a.mha", "a.nrrd"):
        with pytest.raises(Refused, match="not a readable volume"):
            itk.read(str(folder / name))
    other = str(folder / "other.h5")  # HDF5 may begin at byte 512
    sitk.WriteImage(sitk.GetImageFromArray(np.full((4, 3, 2), 77, np.uint8)), other)
    (folder / "a.nrrd").write_bytes(
        (NRRD + "\n").encode().ljust(512, b"\1") + (folder / "other.h5").read_bytes()
    )
    assert (itk.read(str(folder / "a.nrrd")).array == 1).all()
    np.testing.assert_array_equal(itk.measure(str(folder / "a.nrrd"))[1][:3, 0], (0, 0, 2))


@pytest.mark.parametrize("suffix", [".mha", ".mhd", ".nrrd", ".nhdr"])
@pytest.mark.parametrize("compressed", [True, False])
def test_what_itk_writes_is_read(tmp_path, suffix, compressed):
    """Otherwise the strictness shuts out the files that there are."""
    image = sitk.GetImageFromArray(np.arange(24, dtype=np.int16).reshape(4, 3, 2))
    path = str(tmp_path / f"a{suffix}")
    sitk.WriteImage(image, path, useCompression=compressed)
    header = itk_header.fields(path)
    assert (itk_header.data_file(path, header) == path) == (suffix in (".mha", ".nrrd"))
    np.testing.assert_array_equal(itk.read(path).array.ravel(), range(24))
