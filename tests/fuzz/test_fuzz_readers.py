"""The fuzzer's check on a fixed set of changes, and what longer runs of it have found."""

import sys
import zlib
from pathlib import Path

import numpy as np
import pytest

from vitmed.data import prepare

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
import fuzz_readers  # noqa: E402
import seeds  # noqa: E402

sys.path.remove(str(HERE))

FILES = seeds.all_of()
CHANGES = 60  # of each reader; the fuzzer makes thousands
_TELLING = (0, 1, 127, 128, 255, 0x7FFF, 0x8000, 0xFFFF, 2**31 - 1, 2**31, 2**32 - 1)


def changed(data, draw):
    """A file with one to four faults: a byte or a number overwritten, a piece cut out, doubled or left off."""
    data = bytearray(data)
    for _ in range(draw.integers(1, 5)):
        at = int(draw.integers(0, max(1, len(data))))
        match int(draw.integers(0, 6)):
            case 0:
                data[at : at + 1] = bytes([draw.integers(0, 256)])
            case 1 | 2:
                width = int(draw.choice([1, 2, 4]))
                number = int(draw.choice(_TELLING)) % 2 ** (8 * width)
                data[at : at + width] = number.to_bytes(width, str(draw.choice(["little", "big"])))
            case 3:
                del data[at : at + int(draw.integers(1, 9))]
            case 4:
                data[at:at] = data[at : at + int(draw.integers(1, 65))]
            case 5:
                del data[at + len(data) // 2 :]
    return bytes(data)


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "in").mkdir()
    return tmp_path / "in"


@pytest.mark.parametrize("reader", FILES)
def test_changed_files_are_read_or_refused(reader, folder):
    """Otherwise a damaged file ends an ingest, or takes the machine's memory."""
    draw = np.random.Generator(np.random.Philox(zlib.crc32(reader.encode())))
    for k in range(CHANGES):
        data = changed(FILES[reader][k % len(FILES[reader])], draw) + bytes([draw.integers(0, 32)])
        try:
            fuzz_readers.check(reader, data, folder)
        except fuzz_readers.Finding as found:
            raise AssertionError(f"change {k}: {fuzz_readers.kind(found)}: {data.hex()}") from found


@pytest.mark.parametrize("reader", FILES)
def test_sound_files_are_read(reader, folder):
    """Otherwise changes are made to what no reader looks into, and find nothing."""
    ways = range(4)
    for number, data in enumerate(FILES[reader]):
        ended = [fuzz_readers.check(reader, data + bytes([way]), folder) for way in ways]
        assert "read" in ended, f"{reader} {number}"


@pytest.mark.parametrize(
    ("function", "fault"),
    [
        ("vitmed.scans.nifti.read", RuntimeError("of no kind")),
        ("vitmed.scans.measure.geometry.canonical", IndexError("of no kind")),
        ("vitmed.data.prepare.statistics", MemoryError()),
    ],
)
def test_a_fault_is_found(function, fault, folder, monkeypatch):
    """Otherwise the check passes whatever the readers do."""

    def broken(*args, **kwargs):
        raise fault

    monkeypatch.setattr(function, broken)
    with pytest.raises(fuzz_readers.Finding, match=type(fault).__name__):
        fuzz_readers.check("nifti", seeds.nifti() + b"\0", folder)


def test_time_and_memory_are_found(folder, monkeypatch):
    """Otherwise a file that hangs a reader or fills the memory passes."""
    monkeypatch.setattr(fuzz_readers, "SECONDS", 0.0)
    with pytest.raises(fuzz_readers.Finding, match="took .* s"):
        fuzz_readers.check("nifti", seeds.nifti() + b"\0", folder)
    monkeypatch.setattr(fuzz_readers, "SECONDS", 60.0)
    monkeypatch.setattr(fuzz_readers, "BYTES", 2**26)
    np.ones(2**28, np.uint8).sum()  # of another test, before
    prepared = prepare.statistics

    def wasteful(*args):
        np.ones(2**27, np.uint8).sum()
        return prepared(*args)

    monkeypatch.setattr(prepare, "statistics", wasteful)
    with pytest.raises(fuzz_readers.Finding, match=r"took 1\d\d MiB"):
        fuzz_readers.check("nifti", seeds.nifti() + b"\0", folder)
