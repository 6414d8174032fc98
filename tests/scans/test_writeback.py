"""What lies on a dataset's grid comes back to its place in the file it came from, to half a voxel."""

import nibabel as nib
import numpy as np
import pytest
from scipy import ndimage

from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.errors import InputError
from vitmed.scans import geometry
from vitmed.scans.find import find
from vitmed.scans.read import read
from vitmed.scans.writeback import likeliest_onto_scan, onto_scan, write_nifti

LPS = np.diag([-1.0, -1.0, 1.0, 1.0])
TURN = nib.eulerangles.euler2mat(0.3, -0.2, 0.4)


def affines():
    """RAS affines of NIfTI files: plain, flipped, permuted, oblique, all of unequal sides."""
    plain = np.diag([0.7, 1.1, 2.5, 1.0])
    flipped = np.diag([-0.7, 1.1, -2.5, 1.0])
    permuted = np.zeros((4, 4))
    permuted[1, 0], permuted[2, 1], permuted[0, 2], permuted[3, 3] = 0.7, -1.1, 2.5, 1.0
    oblique = np.eye(4)
    oblique[:3, :3] = TURN @ np.diag([0.7, -1.1, 2.5])
    out = {"plain": plain, "flipped": flipped, "permuted": permuted, "oblique": oblique}
    for affine in out.values():
        affine[:3, 3] = 12.0, -30.0, 44.0
    return out


def ball(shape, centre, radius):
    """Ones within ``radius`` voxels of ``centre``."""
    distance = sum(
        (np.arange(n).reshape([-1 if a == b else 1 for b in range(3)]) - c) ** 2
        for a, (n, c) in enumerate(zip(shape, centre, strict=True))
    )
    return (distance <= radius**2).astype(np.uint8)


def put(source, spacing, size):
    """A record of a scan, as ingest makes it, with the scan's own values as its image."""
    scan, _ = geometry.fit(read(source), spacing, size, 0.0)
    read_size = read(source).size
    grid = np.eye(4) if scan.grid is None else scan.grid
    return {
        "id": "x",
        "image": scan.array,
        "affine": scan.affine,
        "grid": grid,
        "orientation": scan.orientation,
        "read_size": np.array(read_size),
    }


@pytest.mark.parametrize("name", affines())
@pytest.mark.parametrize(
    ("spacing", "size"),
    [(None, None), ((1.0, 1.0, 1.0), None), ((2.0, 1.5, 0.5), (20, 24, 70)), (None, (18, 20, 22))],
)
def test_coordinates_come_back_to_their_voxels(tmp_path, name, spacing, size):
    """Otherwise a finding is drawn beside where it is: a ramp along each axis of the file shows by how much."""
    shape, affine = (32, 30, 28), affines()[name]
    for axis in range(3):
        ramp = np.broadcast_to(
            np.arange(shape[axis]).reshape([-1 if a == axis else 1 for a in range(3)]), shape
        )
        nib.Nifti1Image(ramp.astype(np.float32), affine).to_filename(tmp_path / "ramp.nii")
        (source,) = find(tmp_path / "ramp.nii")[0]
        record = put(source, spacing, size)
        back, place = onto_scan(record["image"][..., 0], record, nearest=False, fill=np.nan)
        assert back.shape == shape
        np.testing.assert_allclose(place, LPS @ affine, atol=1e-4)
        held = np.isfinite(back)
        assert held.any()
        inner = tuple(slice(4, -4) for _ in shape)  # at the border the filter leans inwards
        error = np.abs(back - ramp)[inner][held[inner]]
        if size is not None:  # the padding's edge is no ramp
            error = error[error < np.inf]
            assert np.median(error) < 0.05
            assert np.mean(error < 0.5) > 0.8
        else:
            assert error.max() < 0.5


@pytest.mark.parametrize("name", affines())
def test_a_mask_comes_back_through_a_dataset(tmp_path, name):
    """Otherwise what is stored with a record does not lead back: flipped, permuted, or shifted by the crop."""
    affine, shape = affines()[name], (40, 36, 16)
    balls = ball(shape, (12, 20, 6), 5) + 2 * ball(shape, (28, 14, 10), 4)
    noise = np.random.Generator(np.random.Philox(key=1)).integers(0, 50, shape)
    image = noise + 500 * (balls > 0)
    (tmp_path / "in").mkdir()
    nib.Nifti1Image(image.astype(np.int16), affine).to_filename(tmp_path / "in" / "a.nii.gz")
    nib.Nifti1Image(balls.astype(np.uint8), affine).to_filename(tmp_path / "m.nii.gz")
    (tmp_path / "in.csv").write_text("path,mask\nin/a.nii.gz,m.nii.gz\n")
    ingest(
        tmp_path / "in.csv",
        tmp_path / "set",
        modality="mr",
        spacing=(1, 1, 1),
        size=(36, 36, 36),
        progress=False,
    )
    record = Dataset.open(tmp_path / "set").record("train", 0)
    back, place = onto_scan(record["mask"], record, nearest=True)
    write_nifti(tmp_path / "back.nii.gz", back, place)
    written = nib.load(tmp_path / "back.nii.gz")
    np.testing.assert_allclose(written.affine, affine, atol=1e-4)
    values = np.asarray(written.dataobj)
    assert values.shape == shape and values.dtype == np.uint8
    sides = np.linalg.norm(affine[:3, :3], axis=0)
    half = 0.5 * np.maximum(sides, 1.0) / sides  # of a voxel of the coarser grid, in voxels of the file
    for value in (1, 2):
        assert (values == value).sum() > 0.7 * (balls == value).sum()
        apart = np.argwhere(values == value).mean(0) - np.argwhere(balls == value).mean(0)
        assert (np.abs(apart) < half).all()
    units = record["image"] * record["scale"] + record["offset"]
    whole, _ = onto_scan(units, record, nearest=False, fill=np.nan)
    assert whole.shape == (*shape, 1)
    inside = np.isfinite(whole[..., 0])
    assert np.corrcoef(whole[..., 0][inside], image[inside])[0, 1] > 0.9


@pytest.mark.parametrize("orientation", [(1, 0, 0, 0, 1, 0), (0, -1, 0, 0, 0, -1), (0.8, 0.6, 0, 0, 0, -1)])
def test_a_dicom_series_gets_its_own_slices_back(series, tmp_path, orientation):
    """Otherwise a mask for a series is written on other slices, rows or columns than the series has."""
    drawn = ball((12, 20, 24), (5, 8, 15), 4)
    normal = np.cross(orientation[:3], orientation[3:])
    series(
        100 + np.uint16(900) * drawn,
        lambda k: {"position": tuple([10, 20, 30] + 2.0 * k * normal), "orientation": orientation},
    )
    (source,) = find(tmp_path / "stack")[0]
    record = put(source, (0.5, 0.5, 0.5), (40, 40, 40))
    mask = (record["image"][..., 0] > -500).astype(np.uint8)
    back, place = onto_scan(mask, record, nearest=True)
    assert back.shape == (12, 20, 24)
    apart = np.abs(np.argwhere(back).mean(0) - np.argwhere(drawn).mean(0))
    assert (apart < (0.5, 0.5, 1.0)).all()  # half a voxel of the coarser grid: columns are 0.25 mm apart
    row, column = np.array(orientation[:3]), np.array(orientation[3:])
    truth = np.array([10, 20, 30]) + 5 * 2 * normal + 8 * 0.5 * column + 15 * 0.25 * row
    np.testing.assert_allclose((place @ [5, 8, 15, 1])[:3], truth, atol=1e-6)


def test_a_border_lies_between_coarse_voxels(tmp_path):
    """Otherwise a mask predicted at 2 mm has steps of 2 mm in a scan of 1 mm, though the probabilities tell more."""
    drawn = [ball((32, 32, 32), centre, 5.0) for centre in ((9, 10, 11), (22, 20, 19))]
    for name, one in zip("ab", drawn):
        nib.Nifti1Image(np.int16(1000) * one, np.eye(4)).to_filename(tmp_path / f"{name}.nii.gz")
    (tmp_path / "in.csv").write_text("path\na.nii.gz\nb.nii.gz\n")
    given = dict(modality="ct", spacing=(2, 2, 2), size=(20, 20, 20), progress=False)
    ingest(tmp_path / "in.csv", tmp_path / "set", **given)
    records = [Dataset.open(tmp_path / "set").record("train", index) for index in (0, 1)]
    record = records[0]
    shares = [np.clip((r["image"] * r["scale"] + r["offset"])[..., 0] / 1000, 0, 1) for r in records]
    if "b" in record["id"]:
        shares.reverse()
    probability = np.stack([1 - sum(shares), *shares], axis=-1)
    made, affine = likeliest_onto_scan(probability, record)
    coarse, same = onto_scan(probability.argmax(-1).astype(np.uint8), record, nearest=True)
    assert made.dtype == np.uint8 and made.shape == drawn[0].shape
    np.testing.assert_array_equal(affine, same)

    def dice(mask, k):
        return 2 * ((mask == k + 1) & drawn[k]).sum() / ((mask == k + 1).sum() + drawn[k].sum())

    for k in (0, 1):
        assert dice(made, k) > 0.88 and dice(made, k) > dice(coarse, k) + 0.02
    beyond = record | {"read_size": record["read_size"] + [9, 0, 0]}
    wide, _ = likeliest_onto_scan(np.eye(3)[np.ones(probability.shape[:-1], int)], beyond)
    assert set(np.unique(wide)) == {0, 1}, "where the grid does not reach is background"


@pytest.mark.parametrize("grid", ["identity", "flipped", "coarse", "oblique"])
def test_the_likeliest_is_that_of_every_class_brought_back_whole(rng, grid):
    """Otherwise what is left out to be quick, classes where they cannot win, is left out of the mask."""
    size, read_size = (7, 8, 6), (15, 11, 13)
    matrix = {
        "identity": np.eye(4),
        "flipped": np.array([[-1, 0, 0, 9], [0, 1, 0, 2], [0, 0, 1, -1], [0, 0, 0, 1.0]]),
        "coarse": np.array([[2.1, 0, 0, 0.5], [0, -1.4, 0, 10], [0, 0, 2, 1], [0, 0, 0, 1.0]]),
        "oblique": np.array([[1.6, 0.3, 0, 1], [-0.3, 1.3, 0.1, 1], [0, 0, 1.9, 0.4], [0, 0, 0, 1.0]]),
    }[grid]
    record = {
        "id": "a",
        "image": np.zeros((*size, 1)),
        "grid": matrix,
        "affine": np.eye(4),
        "orientation": "PSR",
    }
    record["read_size"] = np.array(size if grid == "identity" else read_size)
    for sharp in (1, 8):
        raw = np.exp(sharp * ndimage.gaussian_filter(rng.standard_normal((*size, 5)), (1, 1, 1, 0)))
        probability = (raw / raw.sum(-1, keepdims=True)).astype(np.float32)
        probability[..., 3] = 0
        nearest = grid in ("identity", "flipped")
        layers = [
            onto_scan(probability[..., k], record, nearest=nearest, fill=float(k == 0))[0] for k in range(5)
        ]
        made, affine = likeliest_onto_scan(probability, record)
        np.testing.assert_array_equal(made, np.argmax(layers, axis=0))
        np.testing.assert_array_equal(affine, onto_scan(probability[..., 0], record, nearest=True)[1])
    with pytest.raises(InputError, match="does not lie on the grid of a"):
        likeliest_onto_scan(probability[1:], record)


def test_pictures_come_back_without_a_place(tmp_path, rng):
    """Otherwise maps of radiographs cannot be laid over them."""
    from PIL import Image

    pixels = np.clip(np.add.outer(np.arange(60), 2 * np.arange(40)), 0, 255).astype(np.uint8)
    (tmp_path / "in").mkdir()
    Image.fromarray(pixels).save(tmp_path / "in" / "a.png")
    ingest(tmp_path / "in", tmp_path / "set", size=(32, 32), progress=False)
    record = Dataset.open(tmp_path / "set").record("train", 0)
    back, place = onto_scan(record["image"][..., 0], record, nearest=False, fill=np.nan)
    assert back.shape == (60, 40) and np.isfinite(back).all() and not np.isfinite(place).any()
    assert np.abs(back - pixels)[3:-3, 3:-3].max() < 3
    with pytest.raises(InputError, match="NIfTI is for volumes"):
        write_nifti(tmp_path / "x.nii", back, place)
    with pytest.raises(InputError, match="is not known"):
        write_nifti(tmp_path / "x.nii", np.zeros((2, 2, 2)), place)
    with pytest.raises(
        InputError, match=r"\(31, 32\) does not lie on the grid of a.png, which is \(32, 32\)"
    ):
        onto_scan(np.zeros((31, 32)), record, nearest=True)


def test_the_real_head_gets_its_voxels_back(shared_data, tmp_path):
    """Otherwise the way back works on made-up series alone."""
    ingest(
        shared_data / "t1_head_dicom",
        tmp_path / "set",
        spacing=(2, 2, 2),
        size=(96, 112, 112),
        progress=False,
    )
    record = Dataset.open(tmp_path / "set").record("train", 0)
    (source,) = find(shared_data / "t1_head_dicom")[0]
    scan = read(source)
    units = record["image"] * record["scale"] + record["offset"]
    back, place = onto_scan(units[..., 0], record, nearest=False, fill=np.nan)
    canonical, affine = geometry.canonical(back, place)
    np.testing.assert_allclose(affine, scan.affine, atol=1e-6)
    assert canonical.shape == scan.size
    inside = np.isfinite(canonical)
    here = np.where(inside, canonical, 0)[::2, ::2, ::2]
    truth = np.where(inside, scan.array[..., 0], 0)[::2, ::2, ::2].astype(float)

    def agree(shift):
        moved = np.roll(here, shift, (0, 1, 2))
        return np.corrcoef(moved[4:-4, 4:-4, 4:-4].ravel(), truth[4:-4, 4:-4, 4:-4].ravel())[0, 1]

    best = agree((0, 0, 0))
    assert best > 0.95
    assert all(agree(s) < best for s in [(1, 0, 0), (-1, 0, 0), (0, 1, 0), (0, -1, 0), (0, 0, 1), (0, 0, -1)])
    write_nifti(tmp_path / "head.nii.gz", back, place)
    np.testing.assert_allclose(read(find(tmp_path / "head.nii.gz")[0][0]).affine, scan.affine, atol=1e-3)
