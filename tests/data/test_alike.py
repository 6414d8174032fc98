"""Near-duplicates: what is one picture must be found whatever was done to it, and nothing else."""

import io
import itertools

import numpy as np
import pytest
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

from vitmed.cli.main import main
from vitmed.data import alike, duplicates
from vitmed.data.datasheet import read
from vitmed.data.ingest import ingest


def scene(key, shape):
    """A picture in 0..1 with structure at all scales, as scans have."""
    rng = np.random.Generator(np.random.Philox(key=key))
    made = sum(s * gaussian_filter(rng.standard_normal(shape), s) for s in (1.0, 2.0, 4.0, 8.0))
    return (0.15 + 0.7 * (made - made.min()) / (made.max() - made.min())).astype(np.float32)


def jpeg(picture, quality):
    stream = io.BytesIO()
    Image.fromarray((picture * 255).astype(np.uint8)).save(stream, "JPEG", quality=quality)
    return np.asarray(Image.open(stream), np.float32) / 255


def linked(pictures):
    """Links among pictures of which the first tells the size."""
    return alike.links(np.stack([alike.signature(p) for p in pictures]), pictures[0].shape)


CHANGES = {
    "re-encoded": lambda p: jpeg(p, 50),
    "half the size": lambda p: np.asarray(Image.fromarray(p).resize((48, 40), Image.Resampling.BILINEAR)),
    "larger": lambda p: np.asarray(Image.fromarray(p).resize((150, 120), Image.Resampling.BICUBIC)),
    "brighter": lambda p: np.clip(p + 0.12, 0, 1),
    "darker": lambda p: np.clip(p - 0.12, 0, 1),
    "less contrast": lambda p: 0.6 * p + 0.1,
    "left to right": lambda p: p[:, ::-1],
    "upside down": lambda p: p[::-1],
    "all of it": lambda p: jpeg(np.clip(p[::-1, ::-1] * 0.8 + 0.1, 0, 1), 60),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_picture_is_found_among_others(change):
    """Otherwise the copy of a training scan is tested on."""
    pictures = [scene(k, (80, 96)) for k in range(40)]
    pictures.append(CHANGES[change](pictures[17]))
    found = linked(pictures)
    assert found.tolist() == [[17, 40]]


@pytest.mark.parametrize("change", ["re-encoded", "brighter", "left to right", "half"])
def test_thumbnails_too(change):
    """Otherwise sets of 28 x 28 pixels, of which most copies were made, are not checked."""
    half = lambda p: np.asarray(Image.fromarray(p).resize((14, 14), Image.Resampling.BILINEAR))  # noqa: E731
    pictures = [gaussian_filter(scene(k, (56, 56)), 1)[::2, ::2] for k in range(20)]
    pictures.append({**CHANGES, "half": half}[change](pictures[4]))
    assert linked(pictures).tolist() == [[4, 20]]


VOLUME_CHANGES = {
    "as it is": lambda v: v,
    "half the size": lambda v: zoom(gaussian_filter(v, 0.8), 0.5, order=1, mode="nearest", grid_mode=True),
    "brighter": lambda v: np.clip(v + 0.1, 0, 1),
    "noise": lambda v: v + 0.03 * np.random.Generator(np.random.Philox(key=9)).standard_normal(v.shape),
    **{
        f"mirrored {flip}": lambda v, flip=flip: v[tuple(slice(None, None, -1 if f else 1) for f in flip)]
        for flip in itertools.product((0, 1), repeat=3)
        if any(flip)
    },
}


@pytest.mark.parametrize("change", VOLUME_CHANGES)
def test_volumes_too(change):
    """Otherwise the check is for pictures only."""
    volumes = [scene(k, (32, 40, 36)) for k in range(8)]
    volumes.append(VOLUME_CHANGES[change](volumes[3]))
    assert linked(volumes).tolist() == [[3, 8]]


def test_the_rough_shape_alone_makes_no_copy():
    """Otherwise all chests are one: what is common to a kind of scan must not speak for the scan."""
    pictures = []
    for k in range(12):
        y, x = np.mgrid[-40:40, -48:48]
        outline = (np.hypot(y - k % 3, 0.95 * x + k % 2) < 32 + k % 4).astype(np.float32)
        body = gaussian_filter(outline, 2)
        pictures.append(np.clip(0.6 * body + 0.6 * body * (scene(k, (80, 96)) - 0.5), 0, 1))
    plain = np.corrcoef(np.stack(pictures).reshape(12, -1))
    assert np.median(plain) > 0.9, "these must be hard to tell apart by plain correlation"
    assert len(linked(pictures)) == 0


def test_what_one_region_shows_is_checked_everywhere():
    """Otherwise a bright frame (a skull, a bed, a ruler) makes copies of scans that share nothing else."""
    frame = np.zeros((80, 96), np.float32)
    frame[2:12:2], frame[-12:-2:2] = 1, 1
    frame[:, 3:15:3] = 1
    inside = [0.4 * scene(k, (80, 96)) for k in range(6)]
    for picture in inside:
        picture[frame > 0] = 1
    assert len(linked(inside)) == 0


def test_blank_pictures_are_no_copies_by_looks():
    """Otherwise a picture without any structure is divided by zero, or all empty slices hang together."""
    assert len(linked([np.full((20, 20), v, np.float32) for v in (0, 0.3, 1)])) == 0


def test_blocks_do_not_change_what_is_found(monkeypatch):
    """Otherwise pairs at the edge of a block are lost in sets of more than one block."""
    pictures = [scene(k, (48, 48)) for k in range(30)]
    pictures += [p[::-1] for p in pictures[::3]]
    whole = linked(pictures).tolist()
    assert len(whole) == 10
    monkeypatch.setattr(alike, "_BLOCK", 7)
    assert linked(pictures).tolist() == whole


def test_a_long_search_says_how_far_it_is(monkeypatch, capsys):
    """Otherwise ingest is silent for minutes once all scans are read, and looks as if it hung."""
    signatures = np.stack([alike.signature(scene(k, (24, 24))) for k in range(30)])
    alike.links(signatures, (24, 24), progress=True)
    assert capsys.readouterr().err == "", "a moment needs no words"
    monkeypatch.setattr(alike, "_BLOCK", 5)
    alike.links(signatures, (24, 24), progress=True)
    assert "comparing: 21/21 blocks" in capsys.readouterr().err


def test_near_duplicates_are_counted_within_and_across_splits():
    """Otherwise leakage is missed: the counts are a contract of `inspect --json`; exact copies are not in them."""
    digests = [b"a", b"a", b"b", b"c", b"d", b"e", b"e"]
    cluster = [0, 0, 0, 0, 4, 5, 5]
    where = ["train", "train", "train", "val", "val", "train", "val"]
    assert duplicates.count_near(digests, cluster, where) == {"train": 1, "val": 0, "train/val": 1}
    assert duplicates.near_groups(digests, cluster, list("1234567")) == [["1", "2", "3", "4"]]


@pytest.fixture
def leaky(tmp_path):
    """40 pictures in two classes; of ten of them a re-encoded or mirrored copy, two with the other label."""
    for name in ("sick", "well"):
        (tmp_path / "scans" / name).mkdir(parents=True)
    for k in range(40):
        picture = scene(k, (64, 64))
        name = ("sick", "well")[k % 2]
        Image.fromarray((picture * 255).astype(np.uint8)).save(tmp_path / "scans" / name / f"{k:02}.png")
        if k < 10:
            other = ("sick", "well")[(k + (k < 2)) % 2]
            copy = jpeg(picture, 60) if k % 3 else picture[:, ::-1]
            Image.fromarray((copy * 255).astype(np.uint8)).save(
                tmp_path / "scans" / other / f"{k:02}copy.png"
            )
    return tmp_path / "scans"


def test_a_contradiction_of_equal_pixels_is_not_counted_again_as_a_near_one(tmp_path):
    """Otherwise the two counts do not add up; with two in one cluster, the second was below zero."""
    picture = scene(0, (64, 64))
    for name in ("sick", "well"):
        (tmp_path / "s" / name).mkdir(parents=True)
        for k, held in enumerate((picture, jpeg(picture, 60), scene(5 + (name == "well"), (64, 64)))):
            Image.fromarray((held * 255).astype(np.uint8)).save(tmp_path / "s" / name / f"{k}.png")
    ingest(tmp_path / "s", tmp_path / "set", label_from="folder", progress=False)
    sheet = read(tmp_path / "set")
    assert len(sheet["near_duplicate_groups"]) == 1, "the picture and its re-encoded copy"
    assert sheet["contradictions"] == 2 and sheet["near_contradictions"] == 0


def test_dedupe_brings_what_looks_alike_to_one_split(leaky, tmp_path):
    """Otherwise the same picture is trained and tested on, though the user asked that it be not."""
    ingest(leaky, tmp_path / "torn", label_from="folder", split="50/25/25", progress=False)
    torn = read(tmp_path / "torn")
    assert sum(n for where, n in torn["near_duplicates"].items() if "/" in where) > 0
    assert torn["near_contradictions"] == 2 and torn["contradictions"] == 0
    ingest(leaky, tmp_path / "kept", label_from="folder", split="50/25/25", dedupe=True, progress=False)
    kept = read(tmp_path / "kept")
    assert sum(n for where, n in kept["near_duplicates"].items() if "/" in where) == 0
    assert sum(kept["near_duplicates"].values()) == 10 and kept["splits"]["dedupe"]
    assert len(kept["near_duplicate_groups"]) == 10


def test_dedupe_of_given_splits_shrinks_what_is_tested(tmp_path):
    """Otherwise an official test set grows by training scans, or keeps copies of them."""
    pictures = [(scene(k, (32, 32)) * 255).astype(np.uint8) for k in range(12)]
    np.savez(
        tmp_path / "set.npz",
        train_images=np.stack(pictures[:8]),
        test_images=np.stack([*pictures[8:], pictures[0], pictures[1][::-1]]),
    )
    made = ingest(tmp_path / "set.npz", tmp_path / "out", dedupe=True, progress=False)
    assert made["examples"] == {"train": 10, "test": 4}
    assert "2 of test moved to train, where copies of them are." in made["notes"]


def test_pneumonia_has_only_the_known_copies(shared_data, tmp_path, capsys):
    """Otherwise different children count as copies, or the known leaks of a public set are missed."""
    source = shared_data / "pneumoniamnist" / "pneumoniamnist.npz"
    ingest(source, tmp_path / "p", progress=False)
    held = read(tmp_path / "p")
    assert held["duplicates"] == {
        "train": 18,
        "val": 0,
        "test": 3,
        "train/val": 8,
        "train/test": 0,
        "val/test": 0,
    }
    assert set(held["near_duplicates"].values()) == {0}


def test_breast_ultrasound_holds_many_copies(shared_data, tmp_path):
    """Otherwise clusters of one lesion are torn apart, and one image with two labels goes unnoticed."""
    arguments = ["--label-from", "folder", "--modality", "ultrasound", "--size", "64,64", "--dedupe"]
    assert main(["ingest", str(shared_data / "busi"), "--out", str(tmp_path / "b"), *arguments]) == 0
    held = read(tmp_path / "b")
    pair = {"malignant/malignant (145).png", "benign/benign (433).png"}
    assert any(pair <= set(group) for group in held["contradiction_groups"])
    # The copies' clusters: 236 images were known to be a near-duplicate of another.
    assert sum(held["near_duplicates"].values()) + sum(held["duplicates"].values()) >= 236 / 2
    assert all(n == 0 for where, n in held["near_duplicates"].items() if "/" in where)


def test_few_pairs_of_different_patients_among_slices(shared_data):
    """Otherwise every abdomen is a copy of every other: pairs must not cross classes, and they are near in time."""
    files = sorted((shared_data / "mednist").glob("*/*.jpeg"))
    found = linked([np.asarray(Image.open(f).convert("L")) / 255 for f in files])
    assert 300 < len(found) < 1000
    assert all(files[i].parent == files[j].parent for i, j in found)
    # Looked at one by one: of the pairs of heads, two show different people; neighbours by number do not.
    heads = [(i, j) for i, j in found if files[i].parent.name == "HeadCT"]
    far = [(i, j) for i, j in heads if abs(int(files[i].stem) - int(files[j].stem)) > 100]
    assert len(far) <= 6 * len(files) / 6600
