"""Random sub-volumes: where they lie follows from (seed, step, example) alone; sweeps take the centre."""

import hashlib
import json

import numpy as np
import pytest

from vitmed import config as configs
from vitmed.data import dataset as module
from vitmed.data import loader
from vitmed.data.crops import Crop
from vitmed.data.dataset import Dataset
from vitmed.data.loader import DataConfig
from vitmed.errors import InputError


@pytest.fixture(params=["cached", "from disk"])
def places(request, write_dataset, tmp_path, monkeypatch):
    """A set of 6 images (9, 7) whose every pixel tells its own place, with masks that do too."""
    if request.param == "from disk":
        monkeypatch.setattr(module, "CACHE_BYTES", 0)
    image = np.arange(63, dtype=np.uint8).reshape(9, 7, 1)
    examples = [{"id": f"e{i}", "image": image, "mask": image[..., 0], "label": [0]} for i in range(6)]
    return str(write_dataset(tmp_path / "places", {"train": examples, "val": examples[:3]}))


def drawn(path, seed=0, start=0, stop=8, shard=(0, 1), workers=0, crop=(4, 3)):
    config = DataConfig(path, crop=crop)
    feeds = config.feeds(config.open(), 4, seed)
    return [batch["main"] for batch in loader.streams(feeds, start, stop, shard, workers)]


def test_a_crop_is_a_box_of_the_scan_and_of_its_mask(places):
    """Otherwise voxels are torn from their places, or a mask lies beside what it marks."""
    for stream in drawn(places):
        assert stream["image"].shape == (4, 4, 3, 1) and (stream["image"][..., 0] == stream["mask"]).all()
        first = stream["mask"][:, :1, :1].astype(int)
        assert (stream["mask"] == first + 7 * np.arange(4)[:, None] + np.arange(3)).all()


def test_crops_are_a_function_of_seed_step_and_example(places):
    """Otherwise a resumed run, or one on more processes or threads, sees other crops."""
    whole = drawn(places)
    again = drawn(places, start=3, workers=3)
    halves = [drawn(places, shard=(i, 2)) for i in range(2)]
    for k, stream in enumerate(whole):
        if k >= 3:
            assert all((stream[n] == again[k - 3][n]).all() for n in stream)
        for n in stream:
            assert (np.concatenate([half[k][n] for half in halves]) == stream[n]).all()
    assert any((a["mask"] != b["mask"]).any() for a, b in zip(whole, drawn(places, seed=1)))
    box, example = Crop((4, 3), (0, 0)), np.array([[1, 2], [3, 4], [1, 2]], np.uint32)
    starts = box.starts(example, (90, 70))
    again = box.starts(np.column_stack([example, np.array([0, 0, 1], np.uint32)]), (90, 70))
    assert (again[:2] == starts[:2]).all() and (again[2] != starts[2]).any(), "another box the second time"
    assert (starts[0] == starts[2]).all() and (starts[0] != starts[1]).any()
    assert (starts != Crop((4, 3), (0, 1)).starts(example, (90, 70))).any()


def test_one_scan_gives_many_boxes_to_a_batch(places):
    """Otherwise a batch of few volumes is the same box several times."""
    config = DataConfig(places, crop=(4, 3))
    (batch,) = loader.streams(config.feeds(config.open(), 36, 0), 0, 1)
    drawn = np.column_stack([batch["main"]["example"][:, :2], batch["main"]["mask"][:, 0, 0]])
    assert len(np.unique(drawn, axis=0)) > 18  # of 6 scans


def test_crops_lie_everywhere_and_nowhere_else():
    """Otherwise the ends of scans are never learned from, or a read runs over them."""
    example = np.stack([np.arange(6000), np.zeros(6000)], 1).astype(np.uint32)
    starts = Crop((4, 3), (0, 5)).starts(example, (9, 7))
    count = np.zeros((6, 5))
    np.add.at(count, tuple(starts.T), 1)
    assert count.sum() == 6000 and abs(count - 200).max() < 5 * np.sqrt(200)
    assert (Crop((9, 7), (0, 5)).starts(example, (9, 7)) == 0).all()


@pytest.fixture(params=["cached", "from disk"])
def small_structures(request, write_dataset, tmp_path, monkeypatch):
    """Scans of (20, 30) of which one holds a voxel of 1 and a block of 2, one the latter, and one nothing."""
    if request.param == "from disk":
        monkeypatch.setattr(module, "CACHE_BYTES", 0)
    masks = np.zeros((3, 20, 30), np.uint8)
    masks[0, 19, 2], masks[:2, 3:7, 20:28], masks[2, :, :4] = 1, 2, 255
    examples = [
        {"id": f"e{i}", "image": mask[..., None], "mask": mask, "label": [0]} for i, mask in enumerate(masks)
    ]
    path = write_dataset(tmp_path / "small", {"train": examples})
    sheet = json.loads((path / "datasheet.json").read_text())
    (path / "datasheet.json").write_text(json.dumps(sheet | {"structures": {"dot": [1], "block": [2]}}))
    return str(path), masks


def test_a_share_of_the_crops_is_about_what_is_marked(small_structures, monkeypatch):
    """Otherwise a small structure is hardly ever seen, or a resumed run sees other crops: held to the draw in NumPy."""
    path, masks = small_structures
    monkeypatch.setattr(module, "VOXELS", 10)
    dataset, share, size = Dataset.open(path), 0.4, (5, 6)
    names = dataset.examples("train")
    of = {dataset.ids("train")[i]: i for i in range(3)}
    about = {"dot": 0, "block": 0, "": 0}
    for step in range(150):
        stream = dataset.read("train", np.arange(3), Crop(size, (7, step), share))
        plain = dataset.read("train", np.arange(3), Crop(size, (7, step)))
        for name, i in of.items():
            text = f"foreground 7 {step} {names[i][0]} {names[i][1]}".encode()
            draw = [
                int.from_bytes(hashlib.blake2b(text, digest_size=24).digest()[k : k + 8], "little")
                for k in (0, 8, 16)
            ]
            mask = masks[int(name[1:])]
            kinds = [k for k in (1, 2) if (mask == k).any()]
            if draw[0] / 2**64 >= share or not kinds:
                assert (stream["mask"][i] == plain["mask"][i]).all()
                about[""] += 1
                continue
            voxels = np.argwhere(mask == kinds[draw[1] % len(kinds)])
            voxels = voxels[np.arange(min(10, len(voxels))) * len(voxels) // min(10, len(voxels))]
            middle = voxels[draw[2] % len(voxels)]
            start = [min(max(m - s // 2, 0), n - s) for m, s, n in zip(middle, size, mask.shape)]
            box = mask[start[0] : start[0] + 5, start[1] : start[1] + 6]
            assert (stream["mask"][i] == box).all() and (stream["image"][i, ..., 0] == box).all()
            about["dot" if kinds[draw[1] % len(kinds)] == 1 else "block"] += 1
    assert about["dot"] == pytest.approx(0.4 * 75, abs=12) and about["block"] == pytest.approx(90, abs=20)


def test_voxels_are_read_from_masks_alone_and_kept_within_bounds(small_structures, monkeypatch):
    """Otherwise a crop about what is marked decodes whole images, or a large set's voxels fill the memory."""
    path, masks = small_structures
    kept, none = Dataset.open(path), Dataset.open(path, cache=0)
    once = sum(voxels.nbytes for voxels in kept.voxels("train", 0))
    some = Dataset.open(path, cache=once)
    decoded = []
    for dataset in (kept, none, some):
        decode = dataset._decoder.__class__.__call__

        def seen(self, record, names=None, decode=decode):
            decoded.append(set(self.names if names is None else names))
            return decode(self, record, names)

        monkeypatch.setattr(dataset._decoder.__class__, "__call__", seen)
        for _ in range(2):
            for i in range(3):
                for a, b in zip(dataset.voxels("train", i), kept.voxels("train", i), strict=True):
                    np.testing.assert_array_equal(a, b)
        monkeypatch.undo()
    assert decoded and set().union(*decoded) == {"mask"}
    read = none.bytes_read
    none.voxels("train", 0)
    assert none.bytes_read > read
    for dataset in (kept, some):
        read = dataset.bytes_read
        dataset.voxels("train", 0)
        assert dataset.bytes_read == read


def test_crops_about_what_is_marked_follow_from_seed_step_and_example(small_structures):
    path, _ = small_structures
    config = DataConfig(path, crop=(5, 6), crop_foreground=0.5)

    def boxes(start=0, shard=(0, 1), workers=0):
        feeds = config.feeds(config.open(), 4, 0)
        return [batch["main"]["mask"] for batch in loader.streams(feeds, start, 8, shard, workers)]

    whole, halves = boxes(), [boxes(shard=(i, 2)) for i in range(2)]
    assert any((a != b).any() for a, b in zip(whole, [s["mask"] for s in drawn(path, crop=(5, 6))]))
    np.testing.assert_array_equal(boxes(start=3, workers=3), whole[3:])
    np.testing.assert_array_equal([np.concatenate(pair) for pair in zip(*halves)], whole)


def test_masks_of_unlabelled_scans_do_not_say_where_their_crops_lie(small_structures):
    """Otherwise what a label budget does not pay for is looked at all the same."""
    path, _ = small_structures
    seen = []
    for share in (0.0, 1.0):
        config = DataConfig(path, crop=(5, 6), crop_foreground=share, unlabelled="split")
        seen.append(config.feeds(config.open(), 4, 0)["unlabelled"].read(0)["image"])
    np.testing.assert_array_equal(*seen)


def test_sweeps_read_the_centre(places):
    """Otherwise what is evaluated depends on luck."""
    opened = Dataset.open(places)
    for stream in (b["main"] for b in loader.sweep(opened, "val", 2, crop=(5, 4))):
        assert (stream["mask"][:, 0, 0] == 2 * 7 + 1).all() and stream["mask"].shape == (2, 5, 4)
    assert next(loader.sweep(opened, "val", 2))["main"]["mask"].shape == (2, 9, 7)


def test_the_recipe_tells_the_size_of_the_crop(places):
    """Otherwise the model is built for scans that it is never fed."""
    config = DataConfig(places, crop=(4, 3))
    assert config.recipe(config.open()).size == (4, 3)
    assert DataConfig(places, crop=(4, 3), size=(4, 3)).recipe(config.open()).size == (4, 3)
    assert DataConfig(places).recipe(config.open()).size == (9, 7)


@pytest.mark.parametrize(
    "keys, told",
    [
        ({"crop": (10, 3)}, r"config.data.crop is 10,3, which does not lie within the 9,7 of"),
        ({"crop": (4, 3, 2)}, r"config.data.crop is 4,3,2, which does not lie within the 9,7 of"),
        ({"crop": (0, 3)}, r"config.data.crop is 0,3"),
        ({"crop": ()}, r"config.data.crop is \(\), which does not lie"),
        ({"crop": (4, 3), "size": (9, 7)}, r"config.data.size is 9,7 and config.data.crop 4,3"),
        ({"crop_foreground": 0.3}, "crop_foreground is 0.3, but config.data.crop is not given"),
        ({"crop": (4, 3), "crop_foreground": 1.5}, "crop_foreground is 1.5; a share from 0 to 1"),
    ],
)
def test_a_crop_that_does_not_fit_is_one_sentence(keys, told, places):
    """Otherwise it is found out by a traceback deep in the loader."""
    with pytest.raises(InputError, match=told):
        configs.build(DataConfig, {"path": places, **keys}, "config.data").open()


def test_datasets_of_a_mix_need_not_be_of_one_size(places, write_dataset, tmp_path):
    """Crops make sets of different sizes fit; one that is too small for the crop is named."""

    def other(name, size):
        image = np.full((*size, 1), 200, np.uint8)
        mask = np.ones(size, np.uint8)
        return str(
            write_dataset(
                tmp_path / name, {"train": [{"id": name, "image": image, "mask": mask, "label": [0]}]}
            )
        )

    config = DataConfig(places, crop=(4, 3), mix={places: 1.0, other("wide", (5, 30)): 1.0})
    stream = config.feeds(config.open(), 4, 0)["main"].read(0)
    assert sorted((stream["image"] == 200).all((1, 2, 3))) == [False, False, True, True]
    config = DataConfig(places, crop=(4, 3), mix={places: 1.0, other("small", (3, 30)): 1.0})
    with pytest.raises(InputError, match="crop is 4,3, which does not lie within the 3,30 of .*small"):
        config.feeds(config.open(), 4, 0)
