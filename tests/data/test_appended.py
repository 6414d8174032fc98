"""Which scans are in a dataset already, whatever they are called."""

import numpy as np
import pytest
from growing import FIRST, manifest, where
from PIL import Image

from vitmed.data.datasheet import read
from vitmed.data.ingest import ingest
from vitmed.errors import InputError


def appended(source, out, **how):
    return ingest(source, out, modality="xray", workers=1, progress=False, append=out.exists(), **how)


def test_another_scan_of_a_name_that_is_there_is_not_passed_over(tmp_path):
    """Otherwise the scans of a second folder are lost where both call theirs 001.png, and only a count tells."""
    appended(manifest(tmp_path, FIRST), tmp_path / "set")
    for one in ((1, "Eve"), (4, "Ann")):  # a blank picture of another patient, other pixels
        second = {"p2/a.png": one, "p2/c.png": (5, "Fay")}
        with pytest.raises(
            InputError, match=r"a\.png is in .*set already, with other pixels or .* further up"
        ):
            appended(manifest(tmp_path, second), tmp_path / "set")
    assert set(where(tmp_path / "set")) == {"a.png", "b.png", "d.png"}
    above = tmp_path / "x" / "second.csv"  # what the message advises
    above.write_text("path,patient\np2/a.png,Eve\np2/c.png,Fay\n")
    appended(above, tmp_path / "set")
    assert set(where(tmp_path / "set")) == {"a.png", "b.png", "d.png", "p2/a.png", "p2/c.png"}


def test_a_manifest_that_grows_beyond_its_folder_adds_what_is_new(tmp_path):
    """Otherwise all scans are named from the folder above, and come in a second time."""
    appended(manifest(tmp_path, FIRST), tmp_path / "set")
    grown = FIRST | {"p2/c.png": (4, "Cat")}
    made = appended(manifest(tmp_path, grown), tmp_path / "set")
    assert set(where(tmp_path / "set")) == {"a.png", "b.png", "d.png", "p2/c.png"}
    told = " ".join(made["notes"])
    assert "3 scans were in the dataset already" in told and "p1/a.png is a.png in the dataset" in told
    with pytest.raises(InputError, match="nothing to append"):
        appended(manifest(tmp_path, grown), tmp_path / "set")
    shrunk = {"p2/c.png": (4, "Cat"), "p2/e.png": (5, "Eve")}
    appended(manifest(tmp_path, shrunk), tmp_path / "set")
    assert set(where(tmp_path / "set")) == {"a.png", "b.png", "d.png", "p2/c.png", "e.png"}


def test_copies_of_scans_that_are_there_are_taken_and_told(tmp_path):
    """Otherwise what another version calls otherwise comes in twice without a word, or another patient's is lost."""
    appended(manifest(tmp_path, FIRST), tmp_path / "set")
    more = {"p1/a.png": (1, "Ann"), "p3/a.png": (1, "Ann"), "p2/b.png": (2, "other"), "p2/z.png": (3, "Dan")}
    made = appended(manifest(tmp_path, more), tmp_path / "set")
    assert set(where(tmp_path / "set")) == {"a.png", "b.png", "d.png", "p3/a.png", "p2/b.png", "p2/z.png"}
    told = " ".join(made["notes"])
    assert "1 scan was in the dataset already" in told
    assert "3 of the new scans have the pixels of a scan that was in the dataset under another name" in told


def test_a_scan_is_known_in_a_set_that_stores_it_wider(tmp_path):
    """Otherwise every 8-bit scan of a set that holds 16-bit ones, too, has other pixels than itself."""
    table = manifest(tmp_path, FIRST)
    deep = np.arange(64, dtype=np.uint16).reshape(8, 8) * 1000
    Image.fromarray(deep).save(tmp_path / "x" / "p1" / "deep.png")
    for name in ("deep", "e"):
        with open(table, "a") as file:
            file.write(f"../x/p1/{name}.png,Zoe\n")
        Image.fromarray(np.eye(8, dtype=np.uint8)).save(tmp_path / "x" / "p1" / "e.png")
        made = appended(table, tmp_path / "set")
    assert read(tmp_path / "set")["dtype"] == "uint16" and set(where(tmp_path / "set")) == {
        f"{n}.png" for n in ("a", "b", "d", "deep", "e")
    }
    assert "4 scans were in the dataset already" in " ".join(made["notes"])
