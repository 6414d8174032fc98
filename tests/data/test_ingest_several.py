"""Files and series that hold several scans, and the choice among series, all the way into a dataset."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from vitmed.cli.main import main
from vitmed.data.ingest import ingest
from vitmed.errors import InputError
from vitmed.scans.kinds import part_of


def examples(dataset):
    source = tfds.builder_from_directory(str(dataset)).as_data_source()
    return {e["id"].decode(): {**e, "split": name} for name, split in source.items() for e in split}


def films(folder, rng, count=12, pages=4):
    folder.mkdir()
    for k in range(count):
        first, *rest = [Image.fromarray(p) for p in rng.integers(0, 256, (pages, 8, 8)).astype(np.uint8)]
        first.save(folder / f"{k:02}.tif", save_all=True, append_images=rest)


def test_frames_of_one_file_stay_on_one_side_and_share_its_label(tmp_path, rng):
    """Otherwise a model is tested on the next frame of a film it was trained on, or half the film has no label."""
    films(tmp_path / "in", rng)
    rows = "".join(f"{k:02}.tif,{'ab'[k % 2]}\n" for k in range(12))
    (tmp_path / "labels.csv").write_text("path,label\n" + rows)
    result = ingest(
        tmp_path / "in", tmp_path / "out", labels=tmp_path / "labels.csv", split="80/10/10", progress=False
    )
    assert sum(result["examples"].values()) == 48 and len(result["examples"]) > 1
    found = examples(tmp_path / "out")
    for k in range(12):
        mine = [e for name, e in found.items() if name.startswith(f"{k:02}.tif#")]
        assert len({e["split"] for e in mine}) == 1 and len(mine) == 4
        assert {(float(e["label"][0]), float(e["label_weight"][0])) for e in mine} == {(k % 2, 1)}


def test_a_hash_in_a_name_makes_no_film_of_pictures(tmp_path, rng):
    """Otherwise a folder of scan#1.png, scan#2.png, ... counts as one scan, and all of it goes to one split."""
    (tmp_path / "in").mkdir()
    for k in range(20):
        Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)).save(tmp_path / "in" / f"scan#{k}.png")
    result = ingest(tmp_path / "in", tmp_path / "out", split="50/25/25", progress=False)
    assert result["examples"] == {"train": 10, "val": 5, "test": 5}


def test_films_that_share_a_frame_stay_on_one_side(tmp_path, rng):
    """Otherwise a copied frame tears the second film in two."""
    films(tmp_path / "in", rng)
    for k in range(0, 12, 2):  # the last page of each even film is the first of the next
        with Image.open(tmp_path / "in" / f"{k:02}.tif") as film:
            film.seek(3)
            shared = film.copy()
        rest = [Image.fromarray(rng.integers(0, 256, (8, 8)).astype(np.uint8)) for _ in range(3)]
        shared.save(tmp_path / "in" / f"{k + 1:02}.tif", save_all=True, append_images=rest)
    ingest(tmp_path / "in", tmp_path / "out", split="40/30/30", progress=False)
    found = examples(tmp_path / "out")
    for k in range(0, 12, 2):
        names = (f"{k:02}.tif#", f"{k + 1:02}.tif#")
        assert len({e["split"] for name, e in found.items() if name.startswith(names)}) == 1
    assert len({e["split"] for e in found.values()}) > 1


def test_films_that_are_appended_are_read_as_those_before(tmp_path, rng):
    """Otherwise some films of a set are two frames, others all, and nobody can tell which."""
    films(tmp_path / "in", rng)
    ingest(tmp_path / "in", tmp_path / "out", frames=2, split="50/25/25", progress=False)
    films(tmp_path / "more", rng, count=17)
    for file in (tmp_path / "more").iterdir():
        file.rename(tmp_path / "in" / f"more{file.name}")
    shutil.copytree(tmp_path / "out", tmp_path / "once")
    for way, words in (
        ({"frames": 3}, "--frames is 3, but .*out was made with 2; leave it out"),
        ({"include": ("localiser",)}, "--include is localiser, but .* was made without it; leave it out, or"),
    ):
        with pytest.raises(InputError, match=words):
            ingest(tmp_path / "in", tmp_path / "out", append=True, progress=False, **way)
    ingest(tmp_path / "in", tmp_path / "out", append=True, progress=False)
    assert {name.split("#")[1] for name in examples(tmp_path / "out")} == {"0000", "0003"}
    ingest(tmp_path / "in", tmp_path / "once", frames=2, append=True, progress=False)
    told = [json.loads((tmp_path / out / "datasheet.json").read_text()) for out in ("out", "once")]
    assert told[0]["content_hash"] == told[1]["content_hash"] and told[0]["plan"] == told[1]["plan"]
    assert told[0]["plan"]["frames"] == 2


def test_more_frames_of_a_film_come_to_its_split(tmp_path, rng):
    """Otherwise a model is tested on the next frame of a film it was trained on."""
    films(tmp_path / "in", rng)
    ingest(tmp_path / "in", tmp_path / "out", frames=2, split="50/25/25", progress=False)
    films(tmp_path / "in" / "more", rng, count=17)
    sheet = tmp_path / "out" / "datasheet.json"
    told = json.loads(sheet.read_text())
    for option in ("frames", "include", "series", "bids_suffix"):  # as an older vitmed wrote it
        del told["plan"][option]
    sheet.write_text(json.dumps(told))
    ingest(tmp_path / "in", tmp_path / "out", append=True, progress=False)
    found = examples(tmp_path / "out")
    assert len(found) == 4 * 29
    sides = {(name.split("#")[0], e["split"]) for name, e in found.items()}
    assert len(sides) == 29
    assert "frames" not in json.loads(sheet.read_text())["plan"], "of the first part nobody knows"


def test_each_image_may_be_asked_for_of_a_set_that_has_each(tmp_path, rng):
    """Otherwise volumes over time, of which it must be said, can never join a set of which nobody had to say it."""
    films(tmp_path / "in", rng, count=2)
    ingest(tmp_path / "in", tmp_path / "out", progress=False)
    films(tmp_path / "in" / "more", rng, count=1)
    ingest(tmp_path / "in", tmp_path / "out", frames="each", append=True, progress=False)
    assert json.loads((tmp_path / "out" / "datasheet.json").read_text())["plan"]["frames"] == "each"


@pytest.mark.parametrize(
    ("name", "whole"),
    [
        ("a/film.tif#0003", "a/film.tif"),
        ("ct/7#echo-2.46+b-1000", "ct/7"),
        ("a/scan#3.png", ""),
        ("a#1/scan", ""),
        ("a/film.tif", ""),
    ],
)
def test_what_a_scan_is_part_of_shows_in_its_name(name, whole):
    """Otherwise frames that are in a set are strangers to those that join it, or pictures are frames."""
    assert part_of(name) == whole


def test_the_options_are_there_for_everybody(tmp_path, rng, capsys):
    """Otherwise they can be used from Python only."""
    films(tmp_path / "in", rng, count=2, pages=5)
    assert main(["ingest", str(tmp_path / "in"), "--out", str(tmp_path / "a"), "--frames", "2"]) == 0
    assert set(examples(tmp_path / "a")) == {"00.tif#0000", "00.tif#0004", "01.tif#0000", "01.tif#0004"}
    assert main(["ingest", str(tmp_path / "in"), "--out", str(tmp_path / "b"), "--frames", "channels"]) == 0
    assert json.loads((tmp_path / "b" / "datasheet.json").read_text())["channels"] == 5
    for option, value in (
        ("--frames", "some"),
        ("--frames", "0"),
        ("--include", "all"),
        ("--series", "no.toml"),
    ):
        assert main(["ingest", str(tmp_path / "in"), "--out", str(tmp_path / "c"), option, value]) == 2
        assert value in capsys.readouterr().err and not (tmp_path / "c").exists()


def test_the_record_keeps_the_orientation_of_the_file(tmp_path, rng):
    """Otherwise a prediction cannot be laid over the scan it was made for."""
    (tmp_path / "in").mkdir()
    volume = rng.integers(0, 500, (6, 7, 8)).astype(np.int16)
    nib.save(nib.Nifti1Image(volume, np.diag([-1.0, 1, 1, 1])), tmp_path / "in" / "a.nii")
    ingest(tmp_path / "in", tmp_path / "out", modality="mr", progress=False)
    example = examples(tmp_path / "out")["a.nii"]
    assert example["orientation"] == b"LAS" and example["image"].shape == (8, 7, 6, 1)
