"""Files that were made to break a reader, by the function that writes them into a folder."""

import gzip
import io
import os
import re
import struct
import zipfile
import zlib

import nibabel as nib
import numpy as np
import pydicom
from hostile_files import cut, mha, nifti_of, nrrd, series_of, slice_of
from PIL import Image
from pydicom.encaps import encapsulate
from pydicom.uid import JPEG2000Lossless, JPEGBaseline8Bit, RLELossless

DEFLATED = b"1.2.840.10008.1.2.1.99"
CASES = {}


def case(reason, *names):
    """Registers a function that writes a hostile thing into a folder; ``reason`` must be told of ``names``."""

    def register(function):
        CASES[function.__name__] = (function, reason, names)
        return function

    return register


# ---- truncated, and of wrong lengths


@case("broken DICOM file", "x.dcm")
def truncated_dicom(folder):
    slice_of(folder / "x.dcm")
    cut(folder / "x.dcm", 0.98)


@case("", "x.dcm")
def truncated_dicom_header(folder):
    slice_of(folder / "x.dcm")
    cut(folder / "x.dcm", 0.4)


@case("not a readable NIfTI file", "x.nii.gz")
def truncated_nifti(folder):
    pixels = np.random.Generator(np.random.Philox(0)).integers(0, 999, (20, 20, 20)).astype(np.int16)
    nib.save(nib.Nifti1Image(pixels, np.eye(4)), folder / "x.nii.gz")
    cut(folder / "x.nii.gz")


@case("broken image", "x.png", "x.tif", "x.jpg")
def truncated_images(folder):
    pixels = np.random.Generator(np.random.Philox(0)).integers(0, 255, (64, 64)).astype(np.uint8)
    for name in ("x.png", "x.tif", "x.jpg"):
        Image.fromarray(pixels).save(folder / name)
        cut(folder / name)


@case("declares more than it holds", "x.npy")
def truncated_array(folder):
    np.save(folder / "x.npy", np.zeros((30, 30)))
    cut(folder / "x.npy")


@case("not a readable array", "x.npz")
def truncated_arrays(folder):
    np.savez(folder / "x.npz", np.zeros((30, 30)))
    cut(folder / "x.npz")


@case("", "x.mha", "y.nrrd")
def truncated_volumes(folder):
    mha(folder / "x.mha", "4 4 4", b"\0" * 60)
    nrrd(folder / "y.nrrd", "4 4 4", b"\0" * 60)


@case("not a readable zip archive", "x.zip")
def truncated_zip(folder):
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("a.png", os.urandom(1000))
    cut(folder / "x.zip")


@case("", "x.dcm")
def element_that_claims_four_gigabytes(folder):
    slice_of(folder / "x.dcm")
    data = (folder / "x.dcm").read_bytes()
    place = data.index(b"\x28\x00\x02\x00US")  # before Samples per Pixel, a private OB of 4 GB
    huge = struct.pack("<HH2sHI", 0x0027, 0x1001, b"OB", 0, 0xFFFFFFF0)
    (folder / "x.dcm").write_bytes(data[:place] + huge + data[place:])


@case("broken DICOM file", "x.dcm")
def pixels_that_claim_more(folder):
    slice_of(folder / "x.dcm")
    data = bytearray((folder / "x.dcm").read_bytes())
    place = data.index(b"\xe0\x7f\x10\x00")
    data[place + 8 : place + 12] = struct.pack("<I", 2**31)
    (folder / "x.dcm").write_bytes(bytes(data))


@case("", "x.dcm")
def sequences_nested_300_deep(folder):
    slice_of(folder / "x.dcm")
    data = (folder / "x.dcm").read_bytes()
    place = data.index(b"\x28\x00\x02\x00US")
    open_ = struct.pack("<HH2sHI", 0x0018, 0x9999, b"SQ", 0, 0xFFFFFFFF)
    item = struct.pack("<HHI", 0xFFFE, 0xE000, 0xFFFFFFFF)
    close = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    (folder / "x.dcm").write_bytes(data[:place] + (open_ + item) * 300 + close * 300 + data[place:])


# ---- sizes that nobody has


@case("too large", "x.dcm")
def dicom_of_terabytes(folder):
    pixels = encapsulate([b"\0" * 64])
    slice_of(folder / "x.dcm", pixels, syntax=RLELossless, Rows=65535, Columns=65535, NumberOfFrames=99999)


@case("declares more than it holds", "x.dcm", "y.dcm")
def dicom_of_many_frames(folder):
    pixels = encapsulate([b"\0" * 64])
    slice_of(folder / "x.dcm", pixels, syntax=RLELossless, NumberOfFrames=2_000_000_000)
    slice_of(folder / "y.dcm", pixels, syntax=RLELossless, Rows=9000, Columns=9000)


@case("broken DICOM file: .* 60000 x 60000 in its codestream", "x.dcm", "y.dcm")
def codestreams_of_another_size(folder):
    memory = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(memory, "JPEG")
    stream = bytearray(memory.getvalue())
    place = stream.index(b"\xff\xc0")
    stream[place + 5 : place + 9] = struct.pack(">HH", 60000, 60000)
    eight = {"BitsAllocated": 8, "BitsStored": 8, "HighBit": 7, "Modality": "US", "RescaleIntercept": None}
    slice_of(folder / "x.dcm", encapsulate([bytes(stream)]), syntax=JPEGBaseline8Bit, **eight)
    siz = (
        b"\xff\x4f\xff\x51"
        + struct.pack(">HHIIIIIIIIH", 41, 0, 60000, 60000, 0, 0, 60000, 60000, 0, 0, 1)
        + b"\x07\1\1"
    )
    slice_of(folder / "y.dcm", encapsulate([siz + b"\0" * 99]), syntax=JPEG2000Lossless, **eight)


@case("", "a.nii", "b.nii.gz", "c.nii", "d.nii", "e.nii.gz", "f.nii")
def nifti_with_absurd_dimensions(folder):
    nifti_of(folder / "a.nii", dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])
    nifti_of(folder / "b.nii.gz", dim=[3, 32767, 32767, 32767, 1, 1, 1, 1])
    nifti_of(folder / "c.nii", dim=[3, -4, 4, 4, 1, 1, 1, 1])
    nifti_of(folder / "d.nii", dim=[0, 0, 0, 0, 0, 0, 0, 0])
    nifti_of(folder / "e.nii.gz", dim=[7, 32767, 1, 1, 32767, 32767, 32767, 32767])
    nifti_of(folder / "f.nii", dim=[9, 4, 4, 4, 1, 1, 1, 1])


@case("", "a.nii", "b.nii.gz", "c.nii")
def nifti_with_absurd_offsets(folder):
    nifti_of(folder / "a.nii", vox_offset=1e30)
    nifti_of(folder / "b.nii.gz", vox_offset=2e9)
    nifti_of(folder / "c.nii", vox_offset=np.nan)


@case("declares more than it holds", "x.nii.gz")
def gzip_bomb(folder):
    header = nib.Nifti1Image(np.zeros((1, 1, 1), np.uint8), np.eye(4)).header
    header.set_data_shape((1100, 1024, 1024))
    packer = zlib.compressobj(9, zlib.DEFLATED, 31)
    with open(folder / "x.nii.gz", "wb") as file:
        file.write(packer.compress(header.binaryblock + b"\0\0\0\0"))
        for _ in range(40):  # a gigabyte would be there; the header alone is enough to say no
            file.write(packer.compress(bytes(2**20)))
        file.write(packer.flush() + os.urandom(2**20))


@case("declares more than it holds", "x.dcm", "y.dcm", "z.dcm")
def deflated_bombs(folder):
    data = slice_of(folder / "x.dcm").read_bytes()
    start = 144 + int.from_bytes(data[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    # Flushed in full, a piece stands for itself and may be repeated.
    body, piece = (packer.compress(b) + packer.flush(zlib.Z_FULL_FLUSH) for b in (data[start:], bytes(2**20)))
    body += 80 * piece + packer.flush()
    plain, deflated = (struct.pack("<H", len(uid)) + uid for uid in (b"1.2.840.10008.1.2.1\0", DEFLATED))
    meta = data[144:start].replace(plain, deflated)
    length = struct.pack("<HH2sHI", 2, 0, b"UL", 4, len(meta))
    lie = length[:-4] + struct.pack("<I", len(meta) + len(body))
    (folder / "x.dcm").write_bytes(data[:132] + length + meta + body)
    (folder / "y.dcm").write_bytes(data[:132] + lie + meta + body + zlib.compress(b"harmless", wbits=-15))
    (folder / "z.dcm").write_bytes(length + meta + body)  # without preamble


@case("declares more than it holds", "x.npy", "y.png", "z.tif")
def pictures_of_terabytes(folder):
    head = "{'descr': '<f8', 'fortran_order': False, 'shape': (1000000, 1000000), }"
    head += " " * (118 - len(head) - 1) + "\n"
    (folder / "x.npy").write_bytes(
        b"\x93NUMPY\1\0" + struct.pack("<H", len(head)) + head.encode() + b"\0" * 99
    )

    def chunk(name, body):
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    size = chunk(b"IHDR", struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    (folder / "y.png").write_bytes(b"\x89PNG\r\n\x1a\n" + size + body)
    memory = io.BytesIO()
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(memory, "TIFF")
    tif = memory.getvalue()
    for tag in (256, 257):  # width and length, as 32-bit numbers
        (start,) = (m.start() for m in re.finditer(struct.pack("<H", tag) + b"[\3\4]\0\1\0\0\0", tif))
        tif = tif[:start] + struct.pack("<HHII", tag, 4, 1, 60000) + tif[start + 12 :]
    (folder / "z.tif").write_bytes(tif)


@case("not a readable array", "x.npy")
def npy_with_a_header_of_gigabytes(folder):
    (folder / "x.npy").write_bytes(b"\x93NUMPY\2\0" + struct.pack("<I", 2**32 - 16) + b"{" * 100)


@case("", "a.mha", "b.nrrd", "c.nrrd", "d.mha")
def volumes_of_terabytes(folder):
    mha(folder / "a.mha", "100000 100000 1000", b"\0" * 64)
    nrrd(folder / "b.nrrd", "100000 100000 1000", b"\0" * 64)
    nrrd(folder / "c.nrrd", "1500 1000 1000", gzip.compress(bytes(2**20)), "gzip")
    mha(folder / "d.mha", "-4 4 4", b"\0" * 64)


# ---- archives


@case("zip bomb", "x.zip")
def zip_bomb(folder):
    with zipfile.ZipFile(folder / "x.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for k in range(4):
            archive.writestr(f"{k}.raw", bytes(20 * 2**20))


@case("archive that leads outside its folder", "a.zip", "b.zip", "c.zip")
def zip_that_leads_outside(folder):
    for name, member in (
        ("a", "../../escaped.png"),
        ("b", "/tmp/vitmed-escaped.png"),
        ("c", "..\\escaped.png"),
    ):
        with zipfile.ZipFile(folder / f"{name}.zip", "w") as archive:
            archive.writestr("fine.txt", "x")
            archive.writestr(member, "escaped")


@case("link in an archive", "x.zip/passwd.png")
def zip_with_a_link(folder):
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        link = zipfile.ZipInfo("passwd.png")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")


@case("archive in an archive", "x.zip/y.zip")
def zip_in_a_zip(folder):
    with zipfile.ZipFile(folder / "x.zip", "w") as archive:
        archive.writestr("y.zip", b"PK\5\6" + bytes(18))


@case(
    "data file outside its folder", "a.mhd", "b.mhd", "c.mhd", "d.mhd", "e.nhdr", "f.nhdr", "g.nhdr", "h.nhdr"
)
def headers_whose_data_lie_elsewhere(folder):
    (folder.parent / "secret.raw").write_bytes(bytes(64))
    (folder / "link.raw").symlink_to(folder.parent / "secret.raw")
    (folder / "-").write_bytes(bytes(64))
    note = "a note of this scan and of others\n"
    mha(folder / "a.mhd", "4 4 4", None, "../secret.raw")
    mha(folder / "b.mhd", "4 4 4", None, "link.raw")
    text = (folder / "a.mhd").read_text()
    (folder / "c.mhd").write_text(text.replace("File =", "File :"))
    (folder / "d.mhd").write_text(f"Comment = {note}" * 3000 + text)
    nrrd(folder / "e.nhdr", "4 4 4", None, data_file="/etc/passwd")
    nrrd(folder / "f.nhdr", "4 4 4", None, data_file="link.raw")
    nrrd(folder / "g.nhdr", "4 4 4", None, data_file="-")
    text = (folder / "e.nhdr").read_text()
    (folder / "h.nhdr").write_text(text.replace("type", f"# {note}" * 3000 + "type"))


@case("not a readable volume", "a.mha", "b.nhdr", "c.nrrd", "d.nrrd")
def headers_that_only_itk_understands(folder):
    (folder.parent / "secret.raw").write_bytes(bytes(64))
    mha(folder / "a.mha", "4 4 4", b"ElementDataFile = ../secret.raw\n" + bytes(64))
    # A line of too few numbers goes on in the next, and takes the first ElementDataFile away.
    (folder / "a.mha").write_bytes(
        (folder / "a.mha").read_bytes().replace(b"Element", b"Offset = 1\nElement", 1)
    )
    nrrd(folder / "b.nhdr", "4 4 4", None, data_file="none\rdata file: ../secret.raw")
    nrrd(folder / "c.nrrd", "4 4 4" + " 4" * 5000, bytes(64))  # ITK writes its complaint over its memory
    nrrd(folder / "d.nrrd", "4 4 4", bytes(64), encoding="x" * 10_000)


# ---- folders


@case("link to a folder that is looked through already", "deep/up")
def link_that_loops(folder):
    (folder / "deep").mkdir()
    (folder / "deep" / "up").symlink_to(folder)


@case("link that leads nowhere", "x.png")
def link_that_dangles(folder):
    (folder / "x.png").symlink_to(folder / "none.png")


@case("neither file nor folder", "x.png")
def a_pipe(folder):
    os.mkfifo(folder / "x.png")


@case("cannot be opened", "x.png", "y.dcm", "z.nii", "v.npy", "w.mha")
def locked_files(folder):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(folder / "x.png")
    slice_of(folder / "y.dcm")
    nifti_of(folder / "z.nii")
    np.save(folder / "v.npy", np.zeros((8, 8)))
    mha(folder / "w.mha", "4 4 4", bytes(64))
    for name in ("x.png", "y.dcm", "z.nii", "v.npy", "w.mha"):
        (folder / name).chmod(0)


@case("cannot be opened", "deep/locked")
def a_locked_folder(folder):
    (folder / "deep" / "locked").mkdir(parents=True)
    np.save(folder / "deep" / "locked" / "x.npy", np.zeros((8, 8, 8)))
    (folder / "deep" / "locked").chmod(0)


# ---- values and geometry


@case("broken DICOM header", "x.dcm")
def spacing_that_is_no_number(folder):
    slice_of(folder / "x.dcm")
    data = (folder / "x.dcm").read_bytes()
    place = data.index(b"\x28\x00\x30\x00DS")
    length = int.from_bytes(data[place + 6 : place + 8], "little")
    (folder / "x.dcm").write_bytes(
        data[: place + 6] + struct.pack("<H", 8) + b"nan\\inf " + data[place + 8 + length :]
    )


@case("broken DICOM header", "x.dcm")
def echo_times_that_are_text(folder):
    frames = []
    for k in range(4):
        frame, place, echo = pydicom.Dataset(), pydicom.Dataset(), pydicom.Dataset()
        place.ImagePositionPatient = [0, 0, k // 2]
        echo.add_new("EffectiveEchoTime", "LO", ("short", "long")[k % 2])
        frame.PlanePositionSequence, frame.MREchoSequence = [place], [echo]
        frames.append(frame)
    pixels = np.arange(256, dtype=np.uint16)
    groups = {"NumberOfFrames": 4, "PerFrameFunctionalGroupsSequence": frames}
    slice_of(folder / "x.dcm", pixels, Modality="MR", **groups)


@case("", "a.nii", "b.nii", "c.mha", "d.nrrd", "e.mha")
def spacing_that_is_not_finite(folder):
    nifti_of(folder / "a.nii", pixdim=[1, np.inf, 1, 1, 1, 1, 1, 1])
    nifti_of(folder / "b.nii", srow_x=[np.nan, 0, 0, 0], sform_code=1)
    mha(folder / "c.mha", "4 4 4", bytes(range(64)), spacing="nan 1 1")
    nrrd(folder / "d.nrrd", "4 4 4", bytes(range(64)), spacing="(inf,0,0)")
    mha(folder / "e.mha", "4 4 4", bytes(range(64)), spacing="0 1 1")


@case("", "a.npy", "b.npy", "c.nii", "d.dcm", "e.npz")
def nothing_in_it(folder):
    np.save(folder / "a.npy", np.zeros((0, 5)))
    np.save(folder / "b.npy", np.zeros((5, 0, 5)))
    nifti_of(folder / "c.nii", dim=[3, 4, 0, 4, 1, 1, 1, 1])
    slice_of(folder / "d.dcm", b"", Rows=0)
    np.savez(folder / "e.npz", a=np.zeros((0, 4)))


@case("not a readable array", "x.npy", "y.npz")
def arrays_with_code_in_them(folder):
    class Trap:
        def __reduce__(self):
            return (os.mkdir, (str(folder.parent / "trapped"),))

    np.save(folder / "x.npy", np.array([Trap()], object), allow_pickle=True)
    np.savez(folder / "y.npz", a=np.array([Trap()], object))


@case("several patients in one series", "s")
def two_patients_in_one_series(folder):
    series_of(folder, "s", lambda k: {"PatientID": "pq"[k > 2]})


@case("missing slices", "s")
def a_missing_slice(folder):
    series_of(folder, "s", lambda k: {"ImagePositionPatient": [0, 0, 2 * k + 2 * (k > 2)]})


@case("several slices at one position", "s")
def two_slices_at_one_place(folder):
    series_of(folder, "s", lambda k: {"ImagePositionPatient": [0, 0, 2 * (k // 2)]})


@case("missing slices", "s#axial")
def mixed_orientation(folder):
    def turned(k):
        other = {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1], "ImagePositionPatient": [2 * k, 0, 0]}
        return other if k in (2, 3) else {}

    series_of(folder, "s", turned)


@case("NaN or infinite pixels", "x.npy", "y.nii")
def values_that_are_no_numbers(folder):
    np.save(folder / "x.npy", np.full((8, 8, 8), np.nan))
    nib.save(nib.Nifti1Image(np.full((4, 4, 4), np.inf, np.float32), np.eye(4)), folder / "y.nii")
