import numpy as np
import pytest
from PIL import Image

from vitmed.scans import arrays, images
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
