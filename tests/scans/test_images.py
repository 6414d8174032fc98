import re
import shutil
import struct
import tracemalloc
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from vitmed.scans import arrays, images
from vitmed.scans.find import find
from vitmed.scans.how import How
from vitmed.scans.read import read
from vitmed.scans.scan import Refused


@pytest.mark.parametrize("suffix", [".png", ".tif", ".bmp"])
def test_grey_keeps_its_values(tmp_path, rng, suffix):
    """Otherwise intensities change on the way in."""
    pixels = rng.integers(0, 256, (5, 7)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / f"a{suffix}")
    scan = images.read(str(tmp_path / f"a{suffix}"))
    assert scan.array.dtype == np.uint8 and scan.span == (0, 255)
    np.testing.assert_array_equal(scan.array[..., 0], pixels)


def test_sixteen_bits_are_kept(tmp_path, rng):
    """Otherwise a detector's 12 bits are thrown away."""
    pixels = rng.integers(0, 4096, (5, 7)).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    scan = images.read(str(tmp_path / "a.png"))
    assert scan.span is None
    np.testing.assert_array_equal(scan.array[..., 0], pixels)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L"])
def test_grey_stored_as_colour_has_one_channel(tmp_path, rng, mode):
    """Otherwise the same kind of scan has one channel or three by the way it was exported."""
    pixels = rng.integers(0, 256, (5, 7)).astype(np.uint8)
    Image.fromarray(pixels).convert("RGB" if mode == "P" else mode).convert(mode).save(tmp_path / "a.png")
    scan = images.read(str(tmp_path / "a.png"))
    assert scan.array.shape == (5, 7, 1)
    if mode != "P":
        np.testing.assert_array_equal(scan.array[..., 0], pixels)


def test_colour_stays_colour(tmp_path, rng):
    """Otherwise Doppler or dermoscopy loses what it is about."""
    pixels = rng.integers(0, 256, (5, 7, 3)).astype(np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read(str(tmp_path / "a.png")).array, pixels)


def test_faulty_images_are_refused(tmp_path, rng):
    """Otherwise one bad file ends the ingest, or half an image goes in."""
    pixels = rng.integers(0, 256, (64, 64)).astype(np.uint8)
    (tmp_path / "junk.png").write_text("junk")
    Image.fromarray(pixels).save(tmp_path / "whole.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "whole.png").read_bytes()[:2000])
    frames = [Image.fromarray(pixels), Image.fromarray(pixels)]
    frames[0].save(tmp_path / "pages.tif", save_all=True, append_images=frames[1:])
    clear = np.dstack([pixels, pixels, pixels, np.zeros_like(pixels)])
    Image.fromarray(clear).save(tmp_path / "clear.png")
    for name, reason in [
        ("junk.png", "not a readable image"),
        ("cut.png", "broken image"),
        ("pages.tif", "several pages"),
        ("clear.png", "transparent"),
        ("none.png", "cannot be opened"),
    ]:
        with pytest.raises(Refused, match=reason):
            images.read(str(tmp_path / name))


@pytest.mark.parametrize(
    ("shape", "wanted"),
    [((5, 7), (5, 7, 1)), ((5, 7, 3), (5, 7, 3)), ((6, 5, 7), (6, 5, 7, 1)), ((6, 5, 7, 2), (6, 5, 7, 2))],
)
def test_arrays_are_read_by_their_shape(tmp_path, rng, shape, wanted):
    """Otherwise a volume is taken for an image of many channels."""
    values = rng.standard_normal(shape)
    np.save(tmp_path / "a.npy", values)
    scan = arrays.read(str(tmp_path / "a.npy"))
    assert scan.array.shape == wanted
    np.testing.assert_array_equal(scan.array.reshape(shape), values)


def test_arrays_that_are_no_scans_are_refused(tmp_path):
    """Otherwise objects are unpickled, which runs what a stranger wrote."""
    np.save(tmp_path / "object.npy", np.array([{}], object), allow_pickle=True)
    np.save(tmp_path / "complex.npy", np.zeros((3, 3), complex))
    np.save(tmp_path / "line.npy", np.zeros(3))
    (tmp_path / "junk.npy").write_text("junk")
    for name in ("object", "complex", "line", "junk"):
        with pytest.raises(Refused):
            arrays.read(str(tmp_path / f"{name}.npy"))
    with zipfile.ZipFile(tmp_path / "bytes.npz", "w") as file:
        file.writestr("image.npy", b"\0NUMPY" + bytes(200))  # found by fuzzing: NumPy gives the bytes
    with pytest.raises(
        Refused, match="not a readable array: its member image does not begin as npy files do"
    ):
        arrays.read(str(tmp_path / "bytes.npz"))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif", "packed.tif", "deep.png", "deep.tif"])
def test_exif_orientation_is_applied(tmp_path, name, orientation):
    """Otherwise photographs of films lie on their side; a TIFF that is not compressed comes out of Pillow in shreds."""
    # Greys in areas that a JPEG keeps.
    pixels = np.kron([[10, 90, 170], [250, 50, 130]], np.ones((16, 16))).astype(np.uint8)
    if name.startswith("deep"):
        pixels = pixels.astype(np.uint16) * 200
    exif = Image.Exif()
    exif[0x0112] = orientation
    told = {"tiffinfo": {0x0112: orientation}} if name.endswith("tif") else {"exif": exif}
    packed = {"compression": "tiff_lzw"} if name.startswith("packed") else {}
    Image.fromarray(pixels).save(tmp_path / name, **told, **packed)
    ways = [
        lambda p: p,
        np.fliplr,
        lambda p: np.rot90(p, 2),
        np.flipud,
        np.transpose,
        lambda p: np.rot90(p, -1),
        lambda p: np.rot90(p, 2).T,
        np.rot90,
    ]
    wanted = ways[orientation - 1](pixels)
    found = images.read(str(tmp_path / name)).array[..., 0]
    np.testing.assert_allclose(found, wanted, atol=2 * name.endswith("jpg"))
    assert images.measure(str(tmp_path / name)) == wanted.shape


def one_clear(path, pixels, bits, clear):
    """A PNG of grey (H, W) or colour (H, W, 3), of which one value is transparent (PNG, 11.3.2.1)."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    height, width = pixels.shape[:2]
    head = struct.pack(">IIBBBBB", width, height, bits, 2 if pixels.ndim == 3 else 0, 0, 0, 0)
    if bits < 8:
        steps = (pixels.reshape(height, -1, 1) >> np.arange(bits)[::-1]) & 1
        rows = [np.packbits(row.ravel()).tobytes() for row in steps]
    else:
        rows = [row.astype(f">u{bits // 8}").tobytes() for row in pixels]
    data = chunk(b"IHDR", head) + chunk(b"tRNS", struct.pack(f">{len(clear)}H", *clear))
    data += chunk(b"IDAT", zlib.compress(b"".join(b"\0" + row for row in rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    return images.read(str(path)).array


@pytest.mark.parametrize(("channels", "bits"), [(1, 1), (1, 2), (1, 4), (1, 8), (1, 16), (3, 8), (3, 16)])
def test_a_value_that_is_transparent_is_refused_where_it_occurs(tmp_path, channels, bits):
    """Otherwise what lies behind it is taken to be as dark as the value, or a sound image is refused."""
    pixels = np.full((4, 8), 2**bits - 1)
    pixels[1:3] = 0
    if channels == 3:
        pixels = np.dstack([pixels, np.zeros_like(pixels), pixels])
    with pytest.raises(Refused, match="partly transparent image"):
        one_clear(tmp_path / "a.png", pixels, bits, pixels[0, 0].reshape(-1))
    other = np.where(pixels == 0, 0, 2**bits - 2) if bits > 1 else pixels * 0
    wanted = other * ({1: 255, 2: 85, 4: 17}.get(bits, 1))
    found = one_clear(tmp_path / "a.png", other, bits, pixels[0, 0].reshape(-1))
    np.testing.assert_array_equal(found.squeeze(), wanted)


@pytest.mark.parametrize(("name", "kind"), [("a.png", "PNG"), ("a.jpg", "MPO")])
def test_pages_that_no_option_chooses_from_are_refused_with_what_to_do(tmp_path, name, kind):
    """Otherwise --frames is advised, which is for TIFF: a second picture in a JPEG is a camera's preview mostly."""
    page = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    page.save(tmp_path / name, kind, save_all=True, append_images=[page.rotate(90)])
    ((source,), refused) = find(tmp_path / name, how=How(frames="each"))
    with pytest.raises(Refused, match=f"several pages in one image: 2 in a {kind}; make each a file"):
        read(source)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
@pytest.mark.parametrize("grey", [True, False])
def test_sixteen_bit_colour_keeps_its_bits(tmp_path, rng, suffix, grey):
    """Otherwise 16-bit grey exported as colour is cut to 8 bits without a word."""
    import SimpleITK as sitk

    pixels = rng.integers(0, 65536, (5, 7, 3)).astype(np.uint16)
    if grey:
        pixels[:] = pixels[..., :1]
    sitk.WriteImage(sitk.GetImageFromArray(pixels, isVector=True), str(tmp_path / f"a{suffix}"))
    scan = images.read(str(tmp_path / f"a{suffix}"))
    np.testing.assert_array_equal(scan.array, pixels[..., :1] if grey else pixels)


def test_white_is_zero_is_turned(tmp_path, rng):
    """Otherwise a 16-bit TIFF of film is a negative among positives."""
    pixels = rng.integers(0, 65536, (5, 7)).astype(np.uint16)
    Image.fromarray(pixels).save(tmp_path / "a.tif", tiffinfo={262: 0})
    data = (tmp_path / "a.tif").read_bytes()
    place = data.index(b"\x06\x01\x03\x00\x01\x00\x00\x00") + 8  # PhotometricInterpretation
    (tmp_path / "a.tif").write_bytes(data[:place] + b"\0\0" + data[place + 2 :])
    np.testing.assert_array_equal(images.read(str(tmp_path / "a.tif")).array[..., 0], 65535 - pixels)


def test_pages_of_a_tiff_are_images(tmp_path, rng):
    """Otherwise all pages but the first are lost."""
    pages = rng.integers(0, 256, (4, 5, 7)).astype(np.uint8)
    first, *rest = map(Image.fromarray, pages)
    first.save(tmp_path / "a.tif", save_all=True, append_images=rest)
    found, refused = find(tmp_path)
    assert [s.id for s in found] == [f"a.tif#000{k}" for k in range(4)] and refused == []
    for source, page in zip(found, pages, strict=True):
        np.testing.assert_array_equal(read(source).array[..., 0], page)
    (whole,), _ = find(tmp_path, how=How(frames="channels"))
    np.testing.assert_array_equal(read(whole).array, np.moveaxis(pages, 0, -1))
    few, _ = find(tmp_path, how=How(frames=2))
    assert [s.item for s in few] == [("frame", 0), ("frame", 3)]
    none, refused = find(tmp_path, how=How(frames="refuse"))
    assert none == [] and refused[0][1] == "several pages in one image"


def test_an_npz_of_one_array_is_a_scan(tmp_path, rng):
    """Otherwise compressed arrays are of no format; one of several arrays is nobody knows which."""
    values = rng.standard_normal((6, 5, 7))
    np.savez_compressed(tmp_path / "a.npz", values)
    np.testing.assert_array_equal(arrays.read(str(tmp_path / "a.npz")).array[..., 0], values)
    np.savez(tmp_path / "b.npz", x=values, y=values)
    with pytest.raises(Refused, match="several arrays"):
        arrays.read(str(tmp_path / "b.npz"))


def resident():
    """Bytes of files that are mapped and in this process's memory (proc_pid_status(5))."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"RssFile:\s+(\d+) kB", status)[1]) * 1024


def test_a_set_in_one_file_takes_no_more_memory_than_a_scan(tmp_path):
    """Otherwise the sets of MedMNIST at 224 pixels take up to 16 GB."""
    rows = np.arange(512, dtype=np.uint8)[:, None, None]
    np.savez_compressed(tmp_path / "set.npz", train_images=np.broadcast_to(rows, (512, 256, 256)))
    del rows
    tracemalloc.start()
    before = resident()
    sources, labels = arrays.unpack(str(tmp_path / "set.npz"), tmp_path / "unpacked")
    for k, source in enumerate(sources):
        assert (read(source).array == k % 256).all()
    mapped, (_, peak) = resident() - before, tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert len(sources) == 512 and labels == {}
    assert peak < 4 * 2**20 and mapped < 4 * 2**20, "of 32 MiB"


@pytest.mark.parametrize("shape", [(4, 5, 7), (4, 5, 7, 3), (4, 5, 6, 7)])
@pytest.mark.parametrize("order", ["C", "F"])
def test_scans_of_a_set_in_one_file_are_those_of_its_array(tmp_path, rng, shape, order):
    """Otherwise pixels of several scans are mixed, or a set that takes another's place is read as that one was."""
    for dtype in (np.uint8, np.int16):
        images = np.asarray(rng.integers(0, 256, shape), dtype, order=order)
        np.savez(tmp_path / "set.npz", val_images=images, val_labels=np.arange(4)[:, None])
        sources, labels = arrays.unpack(str(tmp_path / "set.npz"), tmp_path / "unpacked")
        assert [s.id for s in sources] == [f"val/00000{k}" for k in range(4)]
        assert labels["val"].ravel().tolist() == [0, 1, 2, 3]
        for source, image in zip(sources, images, strict=True):
            np.testing.assert_array_equal(read(source).array.reshape(image.shape), image)
        shutil.rmtree(tmp_path / "unpacked")


def test_a_png_of_billions_of_rows_is_not_decoded_to_be_measured(tmp_path):
    """Otherwise --size auto fills the memory for 70 bytes: to find a PNG's orientation, Pillow decodes it."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = struct.pack(">IIBBBBB", 8, 0x6E000008, 16, 0, 0, 0, 0)
    data = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(bytes(40))) + chunk(b"IEND", b"")
    (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + data)
    with pytest.raises(Refused, match="too large"):
        images.measure(str(tmp_path / "a.png"))


def test_what_pillow_and_numpy_raise_is_a_fault_of_the_file(tmp_path):
    """Otherwise it is told as a fault that no reader knows, or, of an error without words, is one of vitmed."""
    page = Image.fromarray(np.zeros((4, 4), np.uint8))
    page.save(tmp_path / "a.tif", save_all=True, append_images=[page])
    whole = (tmp_path / "a.tif").read_bytes()
    width = struct.pack("<HHI", 256, 4, 1)  # the tag of the second page's
    (tmp_path / "a.tif").write_bytes(struct.pack("<HHI", 9, 4, 1).join(whole.rsplit(width, 1)))
    np.save(tmp_path / "a.npy", np.zeros((4, 4)))
    whole = (tmp_path / "a.npy").read_bytes()
    (tmp_path / "a.npy").write_bytes(whole.replace(b"(4, 4), }", b"(4, 4)}} "))
    np.savez(tmp_path / "a.npz", np.zeros((4, 4)))
    whole = (tmp_path / "a.npz").read_bytes()
    with zipfile.ZipFile(tmp_path / "a.npz") as archive:
        (member,) = archive.infolist()
    sizes = struct.pack("<II", member.file_size, member.file_size)
    whole = whole.replace(sizes, struct.pack("<II", 2**16, 2**16)).replace(b"(4, 4), }", b"(64,64),}")
    (tmp_path / "a.npz").write_bytes(
        whole
    )  # zipfile then comes to the end of the file, and says nothing but EOFError
    for name, reason in (("a.tif", "broken image"), ("a.npy", "not a readable"), ("a.npz", "not a readable")):
        ((source,), _) = find(tmp_path / name)
        with pytest.raises(Refused, match=reason):
            read(source)
