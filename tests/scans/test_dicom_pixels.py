"""From stored bits to values; that decoding equals pydicom's is in test_dicom_files.py."""

import numpy as np
import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.pixels import apply_color_lut, apply_modality_lut, apply_voi
from pydicom.uid import EnhancedCTImageStorage

from vitmed.scans import dicom, dicom_header, dicom_pixels
from vitmed.scans.scan import Refused

PLAIN = {"Modality": "DX", "RescaleIntercept": None, "RescaleSlope": None}


@pytest.mark.parametrize("signed", [0, 1])
@pytest.mark.parametrize("stored", [10, 12, 16])
def test_unused_bits_do_not_count(dicom_slice, tmp_path, rng, signed, stored):
    """Otherwise what a scanner left in the unused bits (overlays) is added to the pixels."""
    pixels = rng.integers(0, 65536, (4, 6)).astype(np.uint16)
    path = dicom_slice(
        tmp_path / "a",
        pixels,
        **PLAIN,
        BitsStored=stored,
        HighBit=stored - 1,
        PixelRepresentation=signed,
    )
    ours = dicom_pixels.decode(dicom_header.look(path))
    low = pixels.astype(int) & (2**stored - 1)
    wanted = np.where(low >= 2 ** (stored - 1), low - 2**stored, low) if signed else low
    np.testing.assert_array_equal(ours, wanted)
    np.testing.assert_array_equal(ours, pydicom.dcmread(path).pixel_array)


def test_padding_is_air_in_a_ct_and_black_elsewhere(dicom_slice, tmp_path):
    """Otherwise the corners of a CT are -2000 HU or +1000, and set the range of a radiograph."""
    pixels = np.array([[-2000, 0], [100, 1064]], np.int16)
    ct = dicom.read((dicom_slice(tmp_path / "a", pixels, PixelPaddingValue=-2000),))
    np.testing.assert_array_equal(ct.array[..., 0], [[-1000, -1024], [-924, 40]])
    pixels = np.array([[4095, 10], [100, 1064]], np.uint16)
    dx = dicom.read((dicom_slice(tmp_path / "b", pixels, **PLAIN, PixelPaddingValue=4095),))
    np.testing.assert_array_equal(dx.array[..., 0], [[10, 10], [100, 1064]])
    grey = {
        **PLAIN,
        "PixelPaddingValue": 0,
        "PixelPaddingRangeLimit": 50,
        "PhotometricInterpretation": "MONOCHROME1",
    }
    dx = dicom.read((dicom_slice(tmp_path / "c", pixels, **grey),))
    np.testing.assert_array_equal(dx.array[..., 0], [[-4095, -4095], [-100, -1064]])


def table(values, first, bits, gives="US"):
    item = Dataset()
    item.LUTDescriptor, item.LUTData = [len(values), first, bits], np.array(values, "<u2").tobytes()
    item.ModalityLUTType = gives
    return [item]


def test_tables_are_applied(dicom_slice, tmp_path):
    """Otherwise a radiograph whose contrast lies in a table is shown, and learned from, without it."""
    pixels = np.array([[0, 1], [2, 3]], np.uint16)
    path = dicom_slice(tmp_path / "a", pixels, **PLAIN, ModalityLUTSequence=table([50, 40, 7, 5], 0, 16))
    scan = dicom.read((path,))
    np.testing.assert_array_equal(scan.array[..., 0], [[50, 40], [7, 5]])
    np.testing.assert_array_equal(scan.array[..., 0], apply_modality_lut(pixels, pydicom.dcmread(path)))
    path = dicom_slice(tmp_path / "b", pixels, **PLAIN, VOILUTSequence=table([0, 3000, 4000, 4095], 0, 12))
    scan = dicom.read((path,))
    assert scan.span == (0, 4095)
    np.testing.assert_array_equal(scan.array[..., 0], apply_voi(pixels, pydicom.dcmread(path)))


@pytest.mark.parametrize("tags", [{"RescaleSlope": 0}, {"RescaleType": "OD"}])
def test_a_ct_must_be_in_hounsfield_units(dicom_slice, tmp_path, tags):
    """Otherwise densities, or nothing at all, pass for Hounsfield units."""
    with pytest.raises(Refused, match="RescaleSlope|RescaleType"):
        dicom.read((dicom_slice(tmp_path / "a", np.ones((4, 6), np.uint16), **tags),))


PALETTE = {
    f"{colour}PaletteColorLookupTable{what}": value
    for colour in ("Red", "Green", "Blue")
    for what, value in (("Descriptor", [4, 0, 16]), ("Data", np.arange(4, dtype="<u2").tobytes()))
}
NO_RESCALE = {"RescaleSlope": None, "RescaleIntercept": None}


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({**NO_RESCALE, "VOILUTSequence": table([0, 1, 2, 3], 0, 16)}, "CT without rescale"),
        (
            {"PhotometricInterpretation": "PALETTE COLOR", **PALETTE},
            "without Hounsfield units.*PALETTE COLOR",
        ),
        ({**NO_RESCALE, "ModalityLUTSequence": table([0, 1, 2, 3], 0, 16, "OD")}, "ModalityLUTType is OD"),
        ({"ModalityLUTSequence": table([0, 1, 2, 3], 0, 16, "OD")}, "ModalityLUTType is OD"),
    ],
    ids=["a VOI table", "a palette", "densities", "densities in the rescale's place"],
)
def test_a_table_of_something_else_does_not_make_hounsfield_units(dicom_slice, tmp_path, tags, reason):
    """Otherwise raw values pass for Hounsfield units because something is looked up in a table."""
    with pytest.raises(Refused, match=reason):
        dicom.read((dicom_slice(tmp_path / "a", np.array([[0, 1], [2, 3]], np.uint16), **tags),))


def test_a_table_of_hounsfield_units_makes_them(dicom_slice, tmp_path):
    """Otherwise a CT whose units are certain is refused."""
    pixels = np.array([[0, 1], [2, 3]], np.uint16)
    tags = {**NO_RESCALE, "ModalityLUTSequence": table([0, 40, 1000, 3000], 0, 16, "HU")}
    scan = dicom.read((dicom_slice(tmp_path / "a", pixels, **tags),))
    np.testing.assert_array_equal(scan.array[..., 0], [[0, 40], [1000, 3000]])


def test_hounsfield_units_do_not_change_sign_with_the_display(dicom_slice, tmp_path):
    """Otherwise air is bone in a CT that is meant to be shown inverted (MONOCHROME1)."""
    pixels = np.array([[24, 2000], [1064, 0]], np.uint16)
    path = dicom_slice(
        tmp_path / "a", pixels, PhotometricInterpretation="MONOCHROME1", PixelPaddingValue=2000
    )
    np.testing.assert_array_equal(dicom.read((path,)).array[..., 0], [[-1000, -1000], [40, -1024]])
    inverted = {"PhotometricInterpretation": "MONOCHROME1", "RescaleIntercept": 0, "PixelPaddingValue": 2000}
    path = dicom_slice(tmp_path / "b", pixels, **inverted)  # unsigned, so that there is no room for air
    np.testing.assert_array_equal(dicom.read((path,)).array[..., 0], [[24, 0], [1064, 0]])


@pytest.mark.parametrize("shared", [True, False], ids=["of all frames", "of one frame"])
@pytest.mark.parametrize("gives", ["Z_EFF", "MGML"])
def test_an_enhanced_ct_must_be_in_hounsfield_units(enhanced, tmp_path, rng, gives, shared):
    """Otherwise the atomic numbers or water densities of a dual-energy CT pass for Hounsfield units."""

    def units(name):
        return {
            "PixelValueTransformation": {"RescaleSlope": 1, "RescaleIntercept": -1024, "RescaleType": name}
        }

    def read(name):
        def groups(k):
            own = {} if shared else units(name if k == 1 else "HU")
            return {"PlanePosition": {"ImagePositionPatient": [0, 0, 2 * k]}, **own}

        kind = {"SOPClassUID": EnhancedCTImageStorage, "Modality": "CT"}
        frames = rng.integers(0, 3000, (3, 4, 6)).astype(np.uint16)
        return dicom.read((enhanced(tmp_path / name, frames, groups, units(name) if shared else {}, **kind),))

    assert read("HU").array.shape == (3, 4, 6, 1)
    with pytest.raises(
        Refused, match="mixed RescaleType.*HU" if not shared else f"its RescaleType is {gives}"
    ):
        read(gives)


def test_rescaling_keeps_its_fractions(dicom_slice, tmp_path, rng):
    """Otherwise a slope is rounded away; whole numbers stay 16 bits wide, which halves the memory."""
    pixels = rng.integers(0, 4000, (4, 6)).astype(np.uint16)
    scan = dicom.read((dicom_slice(tmp_path / "a", pixels, RescaleSlope=0.25, RescaleIntercept=-1024.5),))
    np.testing.assert_allclose(scan.array[..., 0], pixels * 0.25 - 1024.5)
    assert dicom.read((dicom_slice(tmp_path / "b", pixels),)).array.dtype == np.int16


def test_damaged_codestreams_never_raise_anything_else(tmp_path, rng):
    """Otherwise a flipped bit in one of a thousand files ends the ingest with a decoder's own words."""
    names = [
        "JPEG2000.dcm",
        "MR_small_jpeg_ls_lossless.dcm",
        "SC_rgb_jpeg_gdcm.dcm",
        "MR_small_RLE.dcm",
        "image_dfl.dcm",
    ]
    outcomes = set()
    for name in names:
        whole = open(pydicom.data.get_testdata_file(name, download=False), "rb").read()
        for trial in range(12):
            data = bytearray(whole[: rng.integers(len(whole) // 2, len(whole))] if trial % 3 == 0 else whole)
            for place in rng.integers(132, len(data), 5):
                data[place] = rng.integers(0, 256)
            (tmp_path / "x.dcm").write_bytes(bytes(data))
            try:
                dicom_pixels.values(dicom_header.look(str(tmp_path / "x.dcm"), ("localiser", "secondary")))
                outcomes.add("read")
            except Refused as fault:
                outcomes.add(fault.reason)
    assert "read" in outcomes and len(outcomes) > 2


@pytest.fixture
def dicom_slice(dicom):  # the module of that name is under test here
    return dicom


@pytest.mark.parametrize("left", [(), ("Descriptor",)], ids=["no table", "a descriptor alone"])
def test_a_palette_that_is_not_there_is_refused(dicom_slice, tmp_path, left):
    """Otherwise the numbers of colours are taken for brightness, or an error of pydicom's for no fault of the file."""
    tags = {f"RedPaletteColorLookupTable{what}": [256, 0, 8] for what in left}
    pixels = np.arange(24, dtype=np.uint8).reshape(4, 6)
    path = dicom_slice(tmp_path / "a", pixels, **PLAIN, PhotometricInterpretation="PALETTE COLOR", **tags)
    with pytest.raises(Refused, match="broken DICOM file.*[Pp]alette"):
        dicom.read((path,))


def palette(tables, first, bits, kept):
    """Tables (3, n) with values of ``bits`` bits, ``kept`` in bytes or in words."""
    tags = {}
    for colour, values in zip(("Red", "Green", "Blue"), tables, strict=True):
        data = values.astype(kept).tobytes()
        tags[f"{colour}PaletteColorLookupTableDescriptor"] = [len(values) % 2**16, first, bits]
        tags[f"{colour}PaletteColorLookupTableData"] = data + b"\0" * (len(data) % 2)
    return {**PLAIN, "PhotometricInterpretation": "PALETTE COLOR", **tags}


@pytest.mark.parametrize(
    ("pixel", "entries", "first", "bits", "kept", "pydicom_can"),
    [
        ("u1", 256, 0, 8, "u1", True),
        ("u1", 4, 3, 8, "u1", True),
        ("u1", 256, 0, 16, "<u2", True),
        ("u1", 100, 50, 16, "<u2", True),
        ("u2", 2**16, 0, 16, "<u2", True),
        ("i2", 4096, -100, 16, "<u2", True),
        ("u1", 256, 0, 8, "<u2", True),
        ("u1", 255, 0, 8, "u1", False),
        ("u2", 256, 1000, 8, "u1", False),
        ("u2", 4096, 0, 8, "u1", False),
    ],
)
def test_a_palette_gives_its_colours(
    dicom_slice, tmp_path, rng, pixel, entries, first, bits, kept, pydicom_can
):
    """Otherwise an ultrasound has other colours than its file, or those of the table's other end."""
    tables = rng.integers(0, 2**bits, (3, entries))
    near = np.array([first - 1, first, first + 1, first + entries - 2, first + entries - 1, first + entries])
    limits = np.iinfo(pixel)
    pixels = np.concatenate([near, rng.integers(limits.min, limits.max + 1, 18)])
    pixels = np.clip(pixels, limits.min, limits.max).astype(pixel).reshape(4, 6)
    path = dicom_slice(tmp_path / "a", pixels, **palette(tables, first, bits, kept))
    ours = dicom.read((path,)).array
    wanted = np.moveaxis(tables[:, np.clip(pixels.astype(int) - first, 0, entries - 1)], 0, -1)
    np.testing.assert_array_equal(ours, wanted >> 8 if bits == 16 else wanted)
    if pydicom_can:
        np.testing.assert_array_equal(wanted, apply_color_lut(pixels, pydicom.dcmread(path)))


def test_a_palette_is_the_same_in_either_order_of_bytes():
    """Otherwise the colours of a big-endian file are the low bytes of its table: as a rule, all black."""
    names = ("OBXXXX1A.dcm", "OBXXXX1A_expb.dcm")
    paths = [pydicom.data.get_testdata_file(name, download=False) for name in names]
    if None in paths:
        pytest.skip(f"{' and '.join(names)} are in the package pydicom-data")
    little, big = (dicom_pixels.values(dicom_header.look(path))[0] for path in paths)
    np.testing.assert_array_equal(little, big)
    assert little.max() > 200


@pytest.mark.parametrize("depth", [8, 10, 16])
def test_a_voi_table_longer_than_its_values_are_wide(dicom_slice, tmp_path, depth):
    """Otherwise a radiograph whose table is of 8 bits, as many are, is a picture of one grey."""
    pixels = np.arange(4096, dtype=np.uint16).reshape(64, 64)
    table = Dataset()
    table.LUTDescriptor = [4096, 0, depth]
    values = np.arange(4096) * (2**depth - 1) // 4095
    table.add_new("LUTData", "OW", values.astype("<u2").tobytes())
    path = dicom_slice(tmp_path / "a", pixels, **PLAIN, BitsStored=12, HighBit=11, VOILUTSequence=[table])
    scan = dicom.read((path,))
    assert scan.span == (0.0, 2**depth - 1)
    np.testing.assert_array_equal(scan.array[..., 0], values.reshape(64, 64))
    assert list(pydicom.dcmread(path).VOILUTSequence[0].LUTDescriptor) == [4096, 0, depth]
