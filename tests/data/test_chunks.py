"""Large volumes: stored in chunks, read back exactly, and a part of one without the rest."""

import errno
import hashlib
import itertools
import json
import math
import os
import shutil
import threading
from pathlib import Path
from types import SimpleNamespace

import nibabel as nib
import numpy as np
import pytest
import tensorflow_datasets as tfds

from vitmed.cli.main import main
from vitmed.data import assembly, chunks, loader
from vitmed.data.crops import Crop
from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.data.loader import DataConfig
from vitmed.data.records import Shard
from vitmed.data.withdraw import withdraw
from vitmed.errors import InputError, MachineError

SIZE, CHUNK = (21, 17, 19), (8, 6, 19)  # (z, y, x); 9 chunks, those at the far ends smaller


def volumes(folder, patients, first=0):
    """A volume of noise and its mask for each patient, and a manifest of them all."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = ["path,patient,mask,split,finding"]
    for p in range(patients):
        rng = np.random.Generator(np.random.Philox(key=p))
        parts = {"scan": rng.integers(-500, 500, SIZE).astype(np.int16)}
        parts["mask"] = rng.integers(0, 3, SIZE).astype(np.uint8)
        for name, array in parts.items():
            if p >= first:
                nib.save(nib.Nifti1Image(array.T, np.diag([-1.0, -1, 1, 1])), folder / f"{name}{p}.nii")
        if p >= first:
            rows.append(f"scan{p}.nii,MRN{p},mask{p}.nii,{('train', 'train', 'val')[p % 3]},{'ab'[p % 2]}")
    (folder / "set.csv").write_text("\n".join(rows) + "\n")
    return folder / "set.csv"


def made(source, out, **more):
    return ingest(source, out, modality="ct", progress=False, **{"workers": 1, **more})


def digest(dataset):
    files = (f for f in sorted(Path(dataset).rglob("*")) if f.is_file())
    return {str(f.relative_to(dataset)): hashlib.sha256(f.read_bytes()).hexdigest() for f in files}


def records(dataset):
    opened = Dataset.open(dataset)
    return {e["id"]: e | {"split": s} for s in opened.splits for e in opened.records(s)}


def alike(mine, theirs):
    """Whether two sets hold the same examples, however these are stored."""
    return mine.keys() == theirs.keys() and all(
        mine[i].keys() == theirs[i].keys()
        and all(
            np.array_equal(mine[i][k], theirs[i][k], equal_nan=k == "image")
            for k in ("image", "mask", "label")
        )
        for i in mine
    )


@pytest.fixture(scope="module")
def pair(tmp_path_factory):
    """Six volumes stored in chunks, the same ones stored whole, and their source."""
    root = tmp_path_factory.mktemp("pair")
    table = volumes(root / "s", 6)
    made(table, root / "chunked", chunk=CHUNK)
    made(table, root / "whole", chunk="none")
    return root


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    """One volume of 256 voxels a side, ingested as anybody would."""
    root = tmp_path_factory.mktemp("large")
    ramp = np.arange(256, dtype=np.int16)
    array = ramp[:, None, None] - ramp[None, :, None] + (ramp[None, None, :] % 7)
    nib.save(nib.Nifti1Image(array, np.diag([-1.0, -1, 1, 1])), root / "a.nii")
    made(root, root / "set", split="train")
    return Dataset.open(root / "set"), np.moveaxis(array, (0, 1, 2), (2, 1, 0))


def test_whole_volumes_and_masks_read_back_exactly(pair):
    """Otherwise a model learns from other voxels than the scans have, or from a mask that lies elsewhere."""
    chunked, whole = records(pair / "chunked"), records(pair / "whole")
    assert alike(chunked, whole) and len(chunked) == 6
    a, b = Dataset.open(pair / "chunked"), Dataset.open(pair / "whole")
    assert (a.image_dtype, a.has_masks) == (b.image_dtype, b.has_masks) == (np.int16, True)
    at = np.array([3, 0, 3])
    mine, theirs = a.read("train", at), b.read("train", at)
    assert mine.keys() == theirs.keys()
    for name in theirs:
        np.testing.assert_array_equal(mine[name], theirs[name])
    np.testing.assert_array_equal(a.record("val", 1)["image"], b.record("val", 1)["image"])


def test_every_box_is_that_of_the_whole(pair):
    """Otherwise a crop that begins or ends at a chunk's edge is shifted or torn."""
    opened = Dataset.open(pair / "chunked")
    whole = opened.record("train", 2)
    reader, first = opened._chunks, int(opened._decoder(opened._shards.records("train", [2])[0])["chunks"][0])
    spans = [
        [(0, 1), (0, n), (n - 1, n), (c - 1, min(n, 2 * c + 1)), (c, min(n, 2 * c))]
        for n, c in zip(SIZE, CHUNK)
    ]
    for box in itertools.product(*([(a, b) for a, b in axis if a < b <= n] for axis, n in zip(spans, SIZE))):
        start, size = tuple(a for a, _ in box), tuple(b - a for a, b in box)
        got = reader.read("train", first, start, size)
        place = tuple(slice(a, b) for a, b in box)
        np.testing.assert_array_equal(got["image"], whole["image"][place])
        np.testing.assert_array_equal(got["mask"], whole["mask"][place])


def test_a_crop_reads_only_what_it_touches(large):
    """Otherwise training on crops of large volumes reads ten or sixty times what it uses."""
    opened, array = large
    assert opened.datasheet["chunk"] == [32, 32, 32]
    before = opened.bytes_read
    np.testing.assert_array_equal(opened.read("train", np.array([0]))["image"][0, ..., 0], array)
    whole = opened.bytes_read - before
    assert whole > array.nbytes
    for step in range(20):
        before = opened.bytes_read
        got = opened.read("train", np.array([0]), Crop((32, 32, 32), (0, step)))["image"]
        assert got.shape == (1, 32, 32, 32, 1)
        assert opened.bytes_read - before < 0.02 * whole
    before = opened.bytes_read
    opened.labels("train"), opened.ids("train")
    assert opened.bytes_read - before < 0.001 * whole  # labels are not read through pixels


def test_crops_about_what_is_marked_are_those_of_the_set_stored_whole(pair):
    """Otherwise how a set is stored decides what is learned of it."""
    chunked, whole = (Dataset.open(pair / name) for name in ("chunked", "whole"))
    every = np.arange(chunked.size("train"))
    for step in range(4):
        crop = Crop((5, 5, 5), (0, step), 1.0)
        a, b = chunked.read("train", every, crop), whole.read("train", every, crop)
        plain = chunked.read("train", every, Crop((5, 5, 5), (0, step)))
        np.testing.assert_array_equal(a["mask"], b["mask"])
        np.testing.assert_array_equal(a["image"], b["image"])
        assert (a["mask"] != plain["mask"]).any()


def test_plain_tfds_reads_both_folders(pair):
    """Otherwise nobody without vitmed can use the set."""
    whole = records(pair / "whole")
    index = tfds.builder_from_directory(str(pair / "chunked")).as_data_source()
    blocks = tfds.builder_from_directory(str(pair / "chunked" / "chunks")).as_data_source()
    for split, source in index.items():
        for example in source:
            image = np.zeros((*SIZE, 1), np.int16)
            first, many = example["chunks"]
            for k in range(first, first + many):
                block = blocks[split][k]
                assert (block["example"] == example["example"]).all()
                image[tuple(slice(a, a + n) for a, n in zip(block["start"], block["mask"].shape))] = block[
                    "image"
                ]
            np.testing.assert_array_equal(image, whole[example["id"].decode()]["image"])


def test_bytes_do_not_depend_on_the_workers(pair, tmp_path, monkeypatch):
    """Otherwise a set cannot be made again."""
    monkeypatch.setattr("vitmed.data.spool.SMALL", 0)  # enough work for several workers
    made(pair / "s" / "set.csv", tmp_path / "other", chunk=CHUNK, workers=3)
    assert digest(tmp_path / "other") == digest(pair / "chunked")
    assert "chunks/features.json" in digest(pair / "chunked")


def test_shards_are_written_side_by_side(pair, tmp_path, monkeypatch):
    """Otherwise one core writes what many have read; and not in an order that depends on which is first."""
    monkeypatch.setattr("vitmed.data.records.SHARD_BYTES", 3 * math.prod(SIZE) + 1)  # a scan and a bit
    seen, add = set(), Shard.add
    ready = threading.Barrier(2, timeout=60)

    def noted(shard, example):
        if "start" in example and threading.get_ident() not in seen:
            seen.add(threading.get_ident())
            ready.wait()  # for the other
        return add(shard, example)

    monkeypatch.setattr(Shard, "add", noted)
    made(pair / "s" / "set.csv", tmp_path / "two", chunk=CHUNK, workers=2)
    monkeypatch.setattr(Shard, "add", add)
    assert len(seen) == 2
    made(pair / "s" / "set.csv", tmp_path / "one", chunk=CHUNK, workers=1)
    assert digest(tmp_path / "two") == digest(tmp_path / "one")
    train = list((tmp_path / "one" / "chunks").glob("*train*"))
    assert len(train) == -(-Dataset.open(tmp_path / "one").size("train") // 2)
    assert alike(records(tmp_path / "one"), records(pair / "whole"))


def test_a_disk_that_fills_up_in_one_thread_ends_all_and_loses_nothing(pair, tmp_path, monkeypatch):
    """Otherwise a dataset lacks a shard, or what was read is read again."""
    monkeypatch.setattr("vitmed.data.records.SHARD_BYTES", 1)
    add = Shard.add

    def full(shard, example):
        if "start" in example and shard.path.name.endswith("00001"):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return add(shard, example)

    monkeypatch.setattr(Shard, "add", full)
    with pytest.raises(MachineError, match="no space left"):
        made(pair / "s" / "set.csv", tmp_path / "set", chunk=CHUNK, workers=2)
    assert not (tmp_path / "set").exists() and not list((tmp_path / "set.partial").glob("chunks"))
    monkeypatch.setattr(Shard, "add", add)
    again = made(pair / "s" / "set.csv", tmp_path / "set", chunk=CHUNK, workers=2)
    assert again["read_before"] == 6
    assert alike(records(tmp_path / "set"), records(pair / "whole"))


@pytest.mark.parametrize("part", ["scan2", "mask2"])
def test_the_content_hash_sees_the_pixels(part, pair, tmp_path):
    """Otherwise a run trained on other pixels or masks is said to be of this set."""

    def changed(dataset):
        return json.loads((dataset / "datasheet.json").read_text())["content_hash"]

    volumes(tmp_path / "s", 6)
    file = nib.load(tmp_path / "s" / f"{part}.nii")
    array = np.asarray(file.dataobj).copy()
    other = tuple(np.argwhere(array != array[0, 0, 0])[-1])
    array[0, 0, 0], array[other] = array[other], array[0, 0, 0]  # the same statistics
    nib.save(nib.Nifti1Image(array, file.affine), tmp_path / "s" / f"{part}.nii")
    made(tmp_path / "s" / "set.csv", tmp_path / "set", chunk=CHUNK)
    assert changed(tmp_path / "set") != changed(pair / "chunked")


def test_sets_of_small_scans_are_stored_whole(pair, tmp_path):
    """Otherwise what was made before chunks would be made otherwise now."""
    made(pair / "s" / "set.csv", tmp_path / "auto")
    assert digest(tmp_path / "auto") == digest(pair / "whole")
    assert (
        not (tmp_path / "auto" / "chunks").exists()
        and "chunk" not in Dataset.open(tmp_path / "auto").datasheet
    )


def test_no_more_scans_are_held_than_memory_allows():
    """Otherwise sixty-four cores that change a set of large scans hold sixty-four of them."""
    small, large = (SimpleNamespace(held=n) for n in (2**20, 2**28))
    mapped = SimpleNamespace(held=0)
    assert assembly._side_by_side([mapped], 64) == 64 == assembly._side_by_side([small, mapped], 64)
    assert assembly._side_by_side([small, large], 64) == 2
    assert assembly._side_by_side([SimpleNamespace(held=2**32)], 64) == 1


@pytest.mark.parametrize("shards", ["one", "one a scan"])
def test_patients_leave_and_join(pair, tmp_path, monkeypatch, shards):
    """Otherwise a large set cannot let a patient go, or loses its chunks when it changes."""
    if shards != "one":  # which threads write, reading from one dataset
        monkeypatch.setattr("vitmed.data.records.SHARD_BYTES", 1)
        monkeypatch.setattr("vitmed.data.assembly.cores", lambda: 4)
    shutil.copytree(pair / "chunked", tmp_path / "set")
    before = records(tmp_path / "set")
    withdraw("MRN1", tmp_path / "set", progress=False)
    after = records(tmp_path / "set")
    assert set(before) - set(after) == {"scan1.nii"}
    assert alike(after, {i: e for i, e in before.items() if i in after})
    blocks = tfds.builder_from_directory(str(tmp_path / "set" / "chunks")).as_data_source()
    assert sum(map(len, blocks.values())) == 5 * 9
    made(volumes(tmp_path / "more", 8, first=6), tmp_path / "set", append=True)
    grown = records(tmp_path / "set")
    assert set(grown) - set(after) == {"scan6.nii", "scan7.nii"}
    assert alike({i: grown[i] for i in after}, after)
    assert Dataset.open(tmp_path / "set").datasheet["chunk"] == list(CHUNK)
    with pytest.raises(InputError, match=r"--chunk is none, but .* was made with 8,6,19; leave it out"):
        made(volumes(tmp_path / "yet", 9, first=8), tmp_path / "set", append=True, chunk="none")


def test_what_is_missing_or_damaged_is_said(pair, tmp_path):
    """Otherwise a set copied by halves is read as zeros, or ends in a traceback."""
    shutil.copytree(pair / "chunked", tmp_path / "set")
    shard = next((tmp_path / "set" / "chunks").glob("*train*"))
    held = bytearray(shard.read_bytes())
    held[len(held) // 3] ^= 255
    shard.write_bytes(held)
    opened = Dataset.open(tmp_path / "set")
    with pytest.raises(InputError, match="split 'train' of .* is damaged"):
        opened.read("train", np.arange(4))
    shard.unlink()
    with pytest.raises(InputError, match=f"lacks its shard chunks/{shard.name}"):
        Dataset.open(tmp_path / "set")
    shutil.rmtree(tmp_path / "set" / "chunks")
    with pytest.raises(InputError, match="lacks its chunks/dataset_info.json"):
        Dataset.open(tmp_path / "set")


@pytest.mark.parametrize(
    "asked, told",
    [
        ("8,8", "has 2 axes, the scans have 3"),
        ("0,8,8", "positive"),
        ("much", "not numbers"),
        ("8,8,x", "not numbers"),
    ],
)
def test_a_chunk_that_cannot_be_is_one_sentence(asked, told, pair, tmp_path, capsys):
    """Otherwise a slip of the pen costs an ingest, or ends in a traceback."""
    command = ["ingest", str(pair / "s" / "set.csv"), "--modality", "ct", "--out", str(tmp_path / "set")]
    assert main([*command, "--chunk", asked]) == 2
    error = capsys.readouterr().err
    assert told in error and "--chunk" in error and "Traceback" not in error
    assert not (tmp_path / "set").exists()


def test_which_sets_are_chunked():
    """Otherwise small sets lose their speed, or large ones are read whole for a crop."""
    assert chunks.shape_of((128, 128, 128), 1, np.uint16) is None  # 4 MiB to the byte
    assert chunks.shape_of((129, 128, 128), 1, np.uint16) == (32, 32, 32)
    assert chunks.shape_of((20, 1024, 1024), 1, np.uint8) == (20, 32, 32)
    assert chunks.shape_of((3000, 2000), 1, np.uint8) == (256, 256)
    assert chunks.shape_of((3000, 2000), 1, np.uint8, "none") is None
    assert chunks.shape_of((8, 8, 8), 1, np.uint8, (4, 16, 4)) == (4, 8, 4)


def test_training_and_sweeps_over_chunks_are_those_over_whole_volumes(pair):
    """Otherwise how a set is stored shows in what is learned from it."""

    def run(name):
        config = DataConfig(str(pair / name), crop=(8, 7, 5), workers=2)
        dataset = config.open()
        feeds = config.feeds(dataset, 4, seed=3)
        steps = list(loader.streams(feeds, 0, 5))
        return steps + list(loader.sweep(dataset, "val", 4, crop=config.crop))

    for mine, theirs in zip(run("chunked"), run("whole"), strict=True):
        assert mine["main"]["image"].shape == (4, 8, 7, 5, 1) and mine["main"]["mask"].shape == (4, 8, 7, 5)
        for key in theirs["main"]:
            np.testing.assert_array_equal(mine["main"][key], theirs["main"][key])
