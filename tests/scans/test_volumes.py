import nibabel as nib
import numpy as np
import pytest
import SimpleITK as sitk

from vitmed.scans import itk, nifti
from vitmed.scans.find import find
from vitmed.scans.how import How
from vitmed.scans.read import read
from vitmed.scans.scan import Refused


def test_nifti_and_itk_see_the_same_volume(tmp_path, rng):
    """Otherwise RAS and LPS, or x,y,z and z,y,x, are confused in one of the two readers."""
    volume = rng.integers(-500, 500, (4, 5, 6)).astype(np.int16)
    a, b = 0.2, 0.1  # oblique: turned about two axes, then permuted and flipped
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1]])
    turn = turn @ np.array([[1, 0, 0], [0, np.cos(b), -np.sin(b)], [0, np.sin(b), np.cos(b)]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[-1, 0, 0], [0, 0, 1], [0, 1, 0]]) * [1.5, 3.0, 2.0]
    affine[:3, 3] = (9, -8, 7)
    image = nib.Nifti1Image(volume, affine)
    image.set_qform(None, code=0)
    nib.save(image, tmp_path / "a.nii.gz")
    read = sitk.ReadImage(str(tmp_path / "a.nii.gz"))
    sitk.WriteImage(read, str(tmp_path / "a.mha"))
    ours, theirs = nifti.read(str(tmp_path / "a.nii.gz")), itk.read(str(tmp_path / "a.mha"))
    np.testing.assert_array_equal(ours.array, theirs.array)
    np.testing.assert_allclose(ours.spacing, theirs.spacing, rtol=1e-4)
    np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-3)
    for corner in [(0, 0, 0), (3, 4, 5), (1, 2, 3)]:
        world = affine @ [*corner, 1]
        index = np.linalg.solve(ours.affine, [-world[0], -world[1], world[2], 1])
        assert ours.array[tuple(np.rint(index[:3]).astype(int))][0] == volume[corner]


def test_nifti_scale_and_unit_are_applied(tmp_path):
    """Otherwise a CT with a slope has wrong Hounsfield units, and one in metres a spacing of microns."""
    image = nib.Nifti1Image(np.full((2, 3, 4), 10, np.int16), np.diag([0.001, 0.002, 0.003, 1]))
    image.header.set_xyzt_units("meter")
    image.header.set_slope_inter(2.0, -5.0)
    nib.save(image, tmp_path / "a.nii")
    scan = nifti.read(str(tmp_path / "a.nii"))
    assert scan.array.shape == (4, 3, 2, 1)
    np.testing.assert_allclose(scan.spacing, (3, 2, 1), rtol=1e-5)
    raw = nib.load(tmp_path / "a.nii")
    np.testing.assert_allclose(scan.array[..., 0].T, raw.get_fdata())


def test_nifti_that_leaves_something_open_is_refused(tmp_path):
    """Otherwise spacing or orientation is invented, which is silent wrongness in medical software."""
    volume = np.zeros((3, 3, 3), np.float32)
    nowhere = nib.Nifti1Image(volume, None)
    nowhere.header["qform_code"], nowhere.header["sform_code"] = 0, 0
    nib.save(nowhere, tmp_path / "orientation.nii")
    nib.save(nib.Nifti1Image(np.zeros((3, 3, 3, 5), np.float32), np.eye(4)), tmp_path / "contrast.nii")
    (tmp_path / "readable.nii.gz").write_text("junk")
    flat = nib.Nifti1Image(volume, np.eye(4))
    nib.save(flat, tmp_path / "spacing.nii")
    data = bytearray((tmp_path / "spacing.nii").read_bytes())
    data[80:92] = b"\0" * 12  # pixdim[1..3]
    (tmp_path / "spacing.nii").write_bytes(bytes(data))
    for word in ("orientation", "contrast", "readable", "spacing"):
        with pytest.raises(Refused, match=word):
            nifti.read(str(tmp_path / next(p.name for p in tmp_path.glob(f"{word}.*"))))


def test_junk_is_no_volume(tmp_path):
    """Otherwise ITK's own error, a page long, reaches the user."""
    (tmp_path / "a.mha").write_text("junk")
    with pytest.raises(Refused, match="not a readable volume"):
        itk.read(str(tmp_path / "a.mha"))


def test_sform_and_qform_that_disagree_are_refused(tmp_path, rng):
    """Otherwise left and right depend on which of two matrices a reader happens to take."""
    image = nib.Nifti1Image(rng.integers(0, 9, (4, 5, 6)).astype(np.int16), np.diag([2.0, 2, 2, 1]))
    image.set_qform(np.diag([2.0, 2, 2, 1]), code=1)
    image.set_sform(np.diag([2.0, 2, 2, 1]) + 1e-4, code=1)
    nib.save(image, tmp_path / "rounded.nii")
    nifti.read(str(tmp_path / "rounded.nii"))
    image.set_sform(np.diag([-2.0, 2, 2, 1]), code=1)
    nib.save(image, tmp_path / "flipped.nii")
    with pytest.raises(Refused, match="sform and qform disagree: LAS and RAS"):
        nifti.read(str(tmp_path / "flipped.nii"))
    image.set_sform(np.array([[2.0, 0, 0, 40], [0, 2, 0, 50], [0, 0, 2, 60], [0, 0, 0, 1]]), code=4)
    nib.save(image, tmp_path / "moved.nii")  # to the space of a template
    np.testing.assert_array_equal(
        nifti.read(str(tmp_path / "moved.nii")).affine @ [0, 4, 3, 1], [-40, -50, 60, 1]
    )
    data = bytearray((tmp_path / "flipped.nii").read_bytes())
    data[280:284] = np.float32(np.nan).tobytes()  # found by fuzzing: there is no comparing with it
    (tmp_path / "nan.nii").write_bytes(data)
    with pytest.raises(Refused, match="its sform or qform holds what is no number"):
        nifti.read(str(tmp_path / "nan.nii"))
    image.set_qform(None, code=0)
    image.set_sform(np.diag([-2.0, 2, 2, 1]), code=1)
    nib.save(image, tmp_path / "one.nii")
    assert nifti.read(str(tmp_path / "one.nii")).orientation == "LAS"


def test_the_orientation_of_the_file_is_kept(tmp_path, rng):
    """Otherwise a map cannot be written back in the order of the scan it belongs to."""
    nib.save(
        nib.Nifti1Image(rng.integers(0, 9, (4, 5, 6)).astype(np.int16), np.diag([-2.0, 1, 3, 1])),
        tmp_path / "a.nii",
    )
    scan = nifti.read(str(tmp_path / "a.nii"))
    assert scan.orientation == "".join(nib.aff2axcodes(nib.load(tmp_path / "a.nii").affine)) == "LAS"


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd"])
def test_four_dimensions_are_times_or_channels_by_option(tmp_path, rng, suffix):
    """Otherwise times are taken for contrasts, or a film is lost; nobody can tell from the file."""
    volumes = rng.integers(0, 99, (3, 4, 5, 6)).astype(np.int16)  # t z y x
    path = tmp_path / f"a{suffix}"
    if suffix == ".nrrd":
        made = sitk.JoinSeries([sitk.GetImageFromArray(v) for v in volumes])
        sitk.WriteImage(made, str(path))
    else:
        image = nib.Nifti1Image(volumes.T, np.diag([-1.0, -1, 1, 1]))
        image.header.set_slope_inter(2.0, 1.0)
        nib.save(image, path)
        volumes = volumes * 2.0 + 1
    found, refused = find(tmp_path)
    assert not found and refused[0][1] == "several volumes in one file" and "--frames" in refused[0][2]
    times, _ = find(tmp_path, how=How(frames="each"))
    assert [s.id for s in times] == [f"a{suffix}#000{t}" for t in range(3)]
    for source, volume in zip(times, volumes, strict=True):
        np.testing.assert_array_equal(read(source).array[..., 0], volume)
    (channels,), _ = find(tmp_path, how=How(frames="channels"))
    np.testing.assert_array_equal(read(channels).array, np.moveaxis(volumes, 0, -1))


@pytest.mark.parametrize(
    ("dtype", "fields", "reason"),
    [
        (np.int16, {"xyzt_units": 5}, "no voxel spacing: its unit of length has the code 5"),
        (
            [("R", "u1"), ("G", "u1"), ("B", "u1")],
            {"scl_slope": 2, "scl_inter": 1},
            "not a volume of numbers",
        ),
    ],
    ids=["a unit that is none", "colours that are scaled"],
)
def test_nifti_of_what_nobody_can_measure_is_refused(tmp_path, dtype, fields, reason):
    """Otherwise an error of the library's ends --spacing auto, or is told for the fault of the file."""
    image = nib.Nifti1Image(np.zeros((3, 4, 5), dtype), np.eye(4))
    data = bytearray(image.to_bytes())
    header = nib.Nifti1Header(bytes(data[:348]), check=False)
    for name, value in fields.items():
        header[name] = value
    data[:348] = header.binaryblock[:348]
    (tmp_path / "a.nii").write_bytes(data)
    with pytest.raises(Refused, match=reason):
        nifti.read(str(tmp_path / "a.nii"))


def test_the_unit_of_time_is_no_matter(tmp_path):
    """Otherwise a volume is refused for a code that says nothing of its voxels."""
    image = nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), np.diag([2.0, 2, 2, 1]))
    image.header["xyzt_units"] = 56 + 2
    nib.save(image, tmp_path / "a.nii")
    assert nifti.read(str(tmp_path / "a.nii")).spacing == (2, 2, 2)


META = "ObjectType = Image\nNDims = {n}\nDimSize = {size}\nElementType = MET_UCHAR\n{more}ElementDataFile = LOCAL\n"
NRRD = "NRRD0004\ntype: uint8\ndimension: {n}\nsizes: {size}\nencoding: raw\n{more}\n"
WHERE = "TransformMatrix = 1 0 0 0 1 0 0 0 1\n"


@pytest.mark.parametrize(
    ("name", "head", "more", "reason"),
    [
        ("a.mha", META, "", "no voxel spacing"),
        ("a.mha", META, WHERE, "no voxel spacing"),
        ("a.mha", META, "ElementSpacing = 1 1 2\n", "orientation unknown"),
        ("a.mha", META, f"{WHERE}ElementSpacing = 1 1 2\n", None),
        ("a.nrrd", NRRD, "", "no voxel spacing"),
        ("a.nrrd", NRRD, "spacings: 1 1 2\n", "orientation unknown"),
        (
            "a.nrrd",
            NRRD,
            "space dimension: 3\nspace directions: (1,0,0) (0,1,0) (0,0,2)\n",
            "orientation unknown",
        ),
        ("a.nrrd", NRRD, "space: right-anterior-superior\nspace directions: (1,0,0) (0,1,0) (0,0,2)\n", None),
    ],
)
def test_a_header_that_does_not_say_where_voxels_lie_is_refused(tmp_path, name, head, more, reason):
    """Otherwise ITK's own 1 mm along the patient's axes is taken for what the file says."""
    path = tmp_path / name
    path.write_bytes(head.format(n=3, size="2 3 4", more=more).encode() + bytes(range(24)))
    for reader in (itk.read, itk.measure):
        if reason is None:
            reader(str(path))
        else:
            with pytest.raises(Refused, match=reason):
                reader(str(path))


def test_an_image_of_two_dimensions_may_leave_its_spacing_out(tmp_path):
    """As a PNG does; 1 mm a pixel would be made up."""
    path = tmp_path / "a.mha"
    path.write_bytes(META.format(n=2, size="4 6", more="").encode() + bytes(range(24)))
    assert itk.read(str(path)).spacing is None
    path.write_bytes(META.format(n=2, size="4 6", more="ElementSpacing = 2 3\n").encode() + bytes(range(24)))
    assert itk.read(str(path)).spacing == (3.0, 2.0)


def read_uint8(path, head, more, n=3, size="2 3 4"):
    header = head.format(n=n, size=size, more=more).encode("utf-8", "surrogateescape")
    path.write_bytes(header + bytes(range(24)))
    return itk.read(str(path), ("frame", 0) if n == 4 else None)


ALONG = "space directions: (1,0,0) (0,1,0) (0,0,2)\nspace origin: (5,6,7)\n"
ALONG_TIME = "space directions: (1,0,0,0) (0,1,0,0) (0,0,2,0) (0,0,0,1)\nspace origin: (5,6,7,0)\n"


@pytest.mark.parametrize("space", ["scanner-xyz", "3D-right-handed", "3D-left-handed"])
def test_a_space_that_names_no_side_is_refused(tmp_path, space):
    """Otherwise left and right are made up: ITK takes the scanner's axes for the patient's."""
    with pytest.raises(Refused, match=f"orientation unknown: its space is '{space}'"):
        read_uint8(tmp_path / "a.nrrd", NRRD, f"space: {space}\n{ALONG}")
    with pytest.raises(Refused, match="orientation unknown: its space is 'scanner-xyz-time'"):
        read_uint8(tmp_path / "a.nrrd", NRRD, f"space: scanner-xyz-time\n{ALONG_TIME}", 4, "2 3 2 2")


@pytest.mark.parametrize(
    ("names", "orientation", "corner"),
    [
        (("right-anterior-superior", "RAS"), "SAR", (-5, -6, 7)),
        (("Left-Anterior-Superior", "las"), "SAL", (5, -6, 7)),
        (("left-posterior-superior", "LPS"), "SPL", (5, 6, 7)),
    ],
)
def test_the_spaces_of_nrrd_lead_to_the_same_sides_with_time(tmp_path, names, orientation, corner):
    """Otherwise a volume is mirrored where it has times: ITK then leaves its axes as they are."""
    for name, suffix in zip(names, ("-time", "t"), strict=True):
        for said, along, n, size in (
            (name, ALONG, 3, "2 3 4"),
            (name + suffix, ALONG_TIME, 4, "2 3 2 2"),
        ):
            scan = read_uint8(tmp_path / "a.nrrd", NRRD, f"space: {said}\n{along}", n, size)
            first = np.argwhere(scan.array[..., 0] == 0)[0]
            np.testing.assert_allclose(scan.affine @ [*first, 1], [*corner, 1])
            assert scan.orientation == orientation


@pytest.mark.parametrize(
    ("name", "more", "spacing"),
    [
        ("a.mha", "DistanceUnits = um\n", 0.001),
        ("a.mha", "DistanceUnits = cm\n", 10),
        ("a.mha", "DistanceUnits = ?\n", 1),
        ("a.nrrd", 'space units: "um" "um" "um"\n', 0.001),
        ("a.nrrd", 'space units: "" "mm" "mm"\n', 1),
        ("a.nrrd", 'space units: "mm" "um" "um"\n', None),
        ("a.nrrd", 'space units: "inch" "inch" "inch"\n', None),
        ("a.nrrd", 'space units: "s" "s" "s"\n', None),
        ("a.nrrd", 'space units: "MM" "mm" "millimeter"\n', 1),
        ("a.nrrd", 'space units: "microns" "Micrometres" "\N{MICRO SIGN}m"\n', 0.001),
        ("a.nrrd", b'space units: "\xb5m" "\xb5m" "\xb5m"\n'.decode("utf-8", "surrogateescape"), 0.001),
    ],
)
def test_lengths_are_in_the_unit_of_the_header(tmp_path, name, more, spacing):
    """Otherwise the voxels of a micro-CT are a thousand times too large."""
    head, where = (META, f"{WHERE}ElementSpacing = 1 1 2\nOffset = 5 6 7\n")
    if name == "a.nrrd":
        head, where = NRRD, f"space: LPS\n{ALONG}"
    if spacing is None:
        with pytest.raises(Refused, match="no voxel spacing: its unit of length is"):
            read_uint8(tmp_path / name, head, where + more)
        return
    scan = read_uint8(tmp_path / name, head, where + more)
    np.testing.assert_allclose(scan.spacing, np.multiply((2, 1, 1), spacing))
    np.testing.assert_allclose(scan.affine[:3, 3], np.multiply((5, 6, 7), spacing))
    np.testing.assert_allclose(itk.measure(str(tmp_path / name))[1], scan.affine)


def test_the_unit_of_an_image_is_applied(tmp_path):
    """Otherwise a microscope's pixels are a thousand times too large."""
    more = 'spacings: 2 3\nunits: "um" "um"\n'
    assert read_uint8(tmp_path / "a.nrrd", NRRD, more, 2, "4 6").spacing == (0.003, 0.002)


@pytest.mark.parametrize("more", ["", "spacings: 2 3\n"])
def test_an_image_may_be_measured_in_pixels(tmp_path, more):
    """Otherwise a picture is refused for a unit that nobody needs, or its pixels are taken for millimetres."""
    more += 'units: "pixel" "pixel"\n'
    assert read_uint8(tmp_path / "a.nrrd", NRRD, more, 2, "4 6").spacing is None


def test_a_spacing_that_is_not_known_is_not_made_up(tmp_path):
    """Otherwise the pixels of which NRRD says nan measure a millimetre, as ITK has it."""
    assert read_uint8(tmp_path / "a.nrrd", NRRD, "spacings: nan nan\n", 2, "4 6").spacing is None
    assert read_uint8(tmp_path / "b.nrrd", NRRD, "spacings: 2 3\n", 2, "4 6").spacing == (3, 2)


@pytest.mark.parametrize("first", [True, False])
def test_the_unit_of_what_is_no_axis_of_space_is_no_matter(tmp_path, first):
    """Otherwise the sequences that 3D Slicer writes are refused for the seconds between their frames."""
    more = "space: LPS\n"
    for key, frame, axes in (
        ("space directions", "none", "(1,0,0) (0,1,0) (0,0,2)"),
        ("units", '"s"', '"" "" ""'),
        ("kinds", "list", "domain domain domain"),
    ):
        more += f"{key}: {frame} {axes}\n" if first else f"{key}: {axes} {frame}\n"
    scan = read_uint8(tmp_path / "a.nrrd", NRRD, more, 4, "2 2 3 2" if first else "2 3 2 2")
    assert scan.spacing == (2, 1, 1)
    more = 'spacings: nan 2 3\nunits: "s" "um" "um"\nkinds: list domain space\n'
    assert read_uint8(tmp_path / "a.nrrd", NRRD, more).spacing == (0.003, 0.002)


def test_stored_values_become_those_they_stand_for(tmp_path):
    """Otherwise a CT is off by its intercept, and of another slope is no CT."""
    where = f"{WHERE}ElementSpacing = 1 1 2\n"
    scale = "ElementToIntensityFunctionSlope = 2\nElementToIntensityFunctionOffset = -1000\n"
    scan = read_uint8(tmp_path / "a.mha", META, where + scale)
    np.testing.assert_array_equal(scan.array.ravel(), np.arange(24) * 2 - 1000)
    assert scan.span is None and scan.array.dtype == np.float32
    assert read_uint8(tmp_path / "a.mha", META, where).array.dtype == np.uint8
    for bad in ("Slope = 0", "Slope = nan", "Offset = x"):
        with pytest.raises(Refused, match="ElementToIntensityFunctionSlope or .* is no number, or 0"):
            read_uint8(tmp_path / "a.mha", META, f"{where}ElementToIntensityFunction{bad}\n")


def test_quantised_values_are_refused(tmp_path):
    """Otherwise 8 bits that were -1000 to 3000 HU pass for 0 to 255; which value was which, NRRD does not say."""
    for field in ("old min: -1000", "oldmax: 3000"):
        with pytest.raises(Refused, match="quantised values: old (min is -1000|max is 3000)"):
            read_uint8(tmp_path / "a.nrrd", NRRD, f"space: LPS\n{ALONG}{field}\n")
    read_uint8(tmp_path / "a.nrrd", NRRD, f"space: LPS\n{ALONG}old min: nan\n")


@pytest.mark.parametrize(
    ("letters", "sound"), [("RAI", True), ("LPS", True), ("???", True), ("RAS", False), ("LAI", False)]
)
def test_letters_that_contradict_the_matrix_are_refused(tmp_path, letters, sound):
    """Otherwise left and right are what one of two says; from where axes come, or where they lead, is the same axes."""
    more = f"{WHERE}ElementSpacing = 1 1 2\nAnatomicalOrientation = {letters}\n"
    if sound:
        assert read_uint8(tmp_path / "a.mha", META, more).orientation == "SPL"
    else:
        with pytest.raises(
            Refused, match=f"orientation that contradicts itself: .* {letters}, .* remove the letters"
        ):
            read_uint8(tmp_path / "a.mha", META, more)


def test_a_key_in_other_letters_is_another_key(tmp_path):
    """Otherwise what ITK passes over counts as said, and its own 1 mm is taken."""
    with pytest.raises(Refused, match="no voxel spacing"):
        read_uint8(tmp_path / "a.mha", META, f"{WHERE}elementspacing = 3 3 3\n")
