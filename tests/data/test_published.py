"""MedMNIST by name: what was published, whole, or one sentence."""

import hashlib
import http.server
import re
import threading

import numpy as np
import pytest

from vitmed.__main__ import main
from vitmed.data import published
from vitmed.errors import InputError, MachineError
from vitmed.scans import medmnist

NAME = "bloodmnist_64"


@pytest.fixture
def server(tmp_path, monkeypatch):
    """A server of one file of a set; ``ranges`` False makes it send all of it, ``cut`` stops it half-way."""
    rng = np.random.default_rng(0)
    file = tmp_path / "served.npz"
    arrays = {}
    for split, n in (("train", 24), ("val", 8), ("test", 8)):
        arrays[f"{split}_images"] = rng.integers(0, 255, (n, 8, 8, 3), np.uint8)
        arrays[f"{split}_labels"] = np.arange(n, dtype=np.uint8)[:, None] % 8
    np.savez(file, **arrays)
    whole = file.read_bytes()

    class Handler(http.server.BaseHTTPRequestHandler):
        asked: list = []
        ranges, cut = True, False

        def do_GET(self):
            self.asked.append(self.headers.get("Range"))
            begin = int(re.findall(r"\d+", self.headers["Range"])[0]) if self.headers.get("Range") else 0
            begin = begin if self.ranges else 0
            if begin >= len(whole):
                self.send_error(416)
                return
            self.send_response(206 if begin else 200)
            self.send_header("Content-Length", str(len(whole) - begin))
            self.end_headers()
            self.wfile.write(whole[begin : len(whole) // 2 if self.cut else None])

        def log_message(self, *_):
            pass

    Handler.asked = []
    serving = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=serving.serve_forever, daemon=True).start()
    monkeypatch.setattr(published, "_FOLDER", f"http://127.0.0.1:{serving.server_port}")
    monkeypatch.setitem(published.MD5, NAME, hashlib.md5(whole).hexdigest())
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    Handler.whole = whole
    yield Handler
    serving.shutdown()
    serving.server_close()


def test_all_sets_in_all_sizes_are_known():
    """Otherwise a set has to be fetched by hand, or its classes are numbers."""
    names = {name.partition("_")[0] for name in published.MD5}
    assert len(names) == 18 and len(published.MD5) == 12 * 4 + 6 * 2
    assert names == set(medmnist.SETS)
    assert all(re.fullmatch(r"[0-9a-f]{32}", md5) for md5 in published.MD5.values())


def test_a_set_is_ingested_by_its_name_and_downloaded_once(server, tmp_path, capsys):
    """Otherwise every ingest downloads gigabytes again."""
    for out in ("a", "b"):
        assert main(["ingest", f"medmnist:{NAME}", "--out", str(tmp_path / out)]) == 0
    assert server.asked == [None]
    assert "basophil" in (tmp_path / "a" / "datasheet.json").read_text()


def test_a_damaged_file_in_the_cache_is_told_and_fetched_again(server, tmp_path, capsys):
    """Otherwise a bad block on the disk goes into every set that is made of it, for ever."""
    held = published.file_of(f"medmnist:{NAME}", quiet=True)
    capsys.readouterr()
    damaged = bytearray(server.whole)
    damaged[len(damaged) // 2] ^= 1
    held.write_bytes(damaged)
    assert published.file_of(f"medmnist:{NAME}", quiet=True).read_bytes() == server.whole
    assert server.asked == [None, None]
    said = f"{held} is no longer the file that was published (its MD5 differs); it is downloaded again\n"
    assert capsys.readouterr().err == said


@pytest.mark.parametrize("ranges", [True, False])
def test_a_download_goes_on_where_it_stopped(server, tmp_path, ranges):
    """Otherwise a flaky line never ends, or two beginnings are joined to one broken file."""
    server.cut = True
    with pytest.raises(MachineError, match="goes on from what came"):
        published.file_of(f"medmnist:{NAME}", quiet=True)
    server.cut, server.ranges = False, ranges
    got = published.file_of(f"medmnist:{NAME}", quiet=True)
    assert got.read_bytes() == server.whole
    assert server.asked == [None, f"bytes={len(server.whole) // 2}-"]
    assert [p.name for p in got.parent.iterdir()] == [got.name]


def test_a_part_that_was_whole_already(server, tmp_path):
    """Otherwise a run killed between download and rename can never be finished."""
    part = tmp_path / "cache" / "vitmed" / "medmnist" / f"{NAME}.part"
    part.parent.mkdir(parents=True)
    part.write_bytes(server.whole)
    assert published.file_of(f"medmnist:{NAME}", quiet=True).read_bytes() == server.whole


def test_another_file_than_the_published_is_refused(server, tmp_path, monkeypatch):
    """Otherwise numbers are compared that were made on other images."""
    monkeypatch.setitem(published.MD5, NAME, "0" * 32)
    with pytest.raises(MachineError, match="its MD5 differs"):
        published.file_of(f"medmnist:{NAME}", quiet=True)
    assert not list((tmp_path / "cache" / "vitmed" / "medmnist").iterdir()), "nothing half right is kept"


def test_a_copy_is_checked_and_needs_no_network(server, tmp_path):
    """Otherwise machines without a network have no way, or a wrong one."""
    copy = tmp_path / f"{NAME}.npz"
    copy.write_bytes(server.whole)
    assert published.file_of(f"medmnist:{NAME}", copy) == copy and not server.asked
    other = tmp_path / "mine.npz"
    other.write_bytes(server.whole)
    with pytest.raises(InputError, match=f"must be called {NAME}.npz"):
        published.file_of(f"medmnist:{NAME}", other)
    copy.write_bytes(server.whole + b" ")
    with pytest.raises(InputError, match="is not bloodmnist_64.npz as it was published"):
        published.file_of(f"medmnist:{NAME}", copy)
    with pytest.raises(InputError, match="is not there"):
        published.file_of(f"medmnist:{NAME}", tmp_path / "none.npz")


def test_wrong_names_are_told(tmp_path, capsys):
    """Otherwise a misspelt name is looked for as a folder."""
    with pytest.raises(InputError, match="there is pneumoniamnist"):
        published.file_of("medmnist:pneumoniamist")
    with pytest.raises(InputError, match="organmnist3d"):
        published.file_of("medmnist:organmnist3d_224")
    (tmp_path / "scans").mkdir()
    assert main(["ingest", str(tmp_path / "scans"), "--out", str(tmp_path / "o"), "--source", "x.npz"]) == 2
    assert "leave --source out" in capsys.readouterr().err


def test_without_a_network_it_says_what_to_do(monkeypatch, tmp_path):
    """Otherwise the fault is a traceback of a library."""
    monkeypatch.setattr(published, "_FOLDER", "http://127.0.0.1:9")
    with pytest.raises(MachineError, match="--source FILE"):
        published.file_of("medmnist:pneumoniamnist", cache=tmp_path, quiet=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot be written to"):
        published.file_of("medmnist:pneumoniamnist", cache=tmp_path / "file" / "cache", quiet=True)
