"""Zip archives of scans; what is refused of hostile ones is in tests/data/test_ingest_hostile.py."""

import zipfile

import numpy as np
import pytest

from vitmed import progress
from vitmed.data.ingest import ingest
from vitmed.scans import archives, arrays
from vitmed.scans.find import find
from vitmed.scans.how import How
from vitmed.scans.read import read


def packed(tmp_path, series, rng):
    """studies.zip with one series of 6 slices in a folder, an array, and what macOS adds."""
    volume = rng.integers(0, 2000, (6, 4, 5)).astype(np.uint16)
    series(volume, folder="knee")
    np.save(tmp_path / "a.npy", volume)
    with zipfile.ZipFile(tmp_path / "studies.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted((tmp_path / "knee").iterdir()):
            archive.write(file, f"first/knee/{file.name}")
        archive.write(tmp_path / "a.npy", "a.npy")
        archive.writestr("__MACOSX/first/._x", b"x")
    return volume


def test_a_zip_is_read_like_the_folder_it_holds(tmp_path, series, rng):
    """Otherwise archives as they come from a PACS must be unpacked by hand, or are read in part."""
    volume = packed(tmp_path, series, rng)
    (tmp_path / "unpacked").mkdir()
    found, refused = find(tmp_path / "studies.zip", how=How(unpack=str(tmp_path / "unpacked")))
    assert [s.id for s in found] == ["a.npy", "first/knee"] and refused == []
    np.testing.assert_array_equal(read(found[1]).array[..., 0], volume.astype(int) - 1024)


def test_zips_in_a_folder_go_in_and_nothing_unpacked_stays(tmp_path, series, rng):
    """Otherwise the disk fills with copies of the scans, or they are left out of the dataset's folder rule."""
    packed(tmp_path, series, rng)
    (tmp_path / "in").mkdir()
    (tmp_path / "studies.zip").rename(tmp_path / "in" / "studies.zip")
    result = ingest(tmp_path / "in", tmp_path / "out", modality="ct", progress=False)
    assert sum(result["examples"].values()) == 2
    assert not list((tmp_path / "out").glob("*unpacked*")) and not list(tmp_path.glob("out.*"))
    assert sorted(p.name for p in (tmp_path / "in").iterdir()) == ["studies.zip"]


def test_members_whose_names_begin_with_a_dot_and_a_slash_are_scans(tmp_path):
    """Otherwise all that such an archive holds is taken for hidden files, and is gone without a word."""
    np.save(tmp_path / "a.npy", np.zeros((4, 5), np.uint8))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "a.npy", "./x/a.npy")
        archive.writestr("./.hidden.npy", b"x")
    (tmp_path / "to").mkdir()
    sources, refused = find(tmp_path / "a.zip", how=How(unpack=str(tmp_path / "to")))
    assert [s.id for s in sources] == ["x/a.npy"] and refused == []


def test_a_member_without_a_name_is_refused(tmp_path):
    """Otherwise one archive ends the ingest of a folder: zipfile does not expect it."""
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("xa", b"1")
    whole = (tmp_path / "a.zip").read_bytes()
    (tmp_path / "a.zip").write_bytes(whole.replace(b"xa", b"\0a"))  # a name ends at the first zero
    (tmp_path / "to").mkdir()
    sources, refused = find(tmp_path / "a.zip", how=How(unpack=str(tmp_path / "to")))
    assert sources == [] and refused == [
        ("a.zip", "not a readable zip archive", "it has a member without a name")
    ]


@pytest.mark.parametrize("kind", ["zip", "npz"])
def test_unpacking_gigabytes_shows_how_far_it_is(kind, tmp_path, monkeypatch, capsys):
    """Otherwise minutes pass without a word, and are taken for a hang."""
    monkeypatch.setattr(archives, "_LONG", 2**20)
    monkeypatch.setattr(progress, "LINE_EVERY", 0.0)
    images = np.arange(3 * 2**20, dtype=np.uint32).view(np.uint8).reshape(3, 2048, 2048)
    np.savez(tmp_path / "set.npz", train_images=images)
    (tmp_path / "set.npz").rename(tmp_path / f"set.{kind}")
    unpack = {"zip": archives.unpack, "npz": arrays.unpack}[kind]
    for quiet in (True, False):
        unpack(str(tmp_path / f"set.{kind}"), tmp_path / f"unpacked{quiet}", quiet)
        lines = capsys.readouterr().err.splitlines()
        assert bool(lines) is not quiet
    assert lines[0].startswith(f"unpacking set.{kind}: 1/12 MB") and "left" in lines[0]
    assert lines[-1].startswith(f"unpacking set.{kind}: 12/12 MB")
