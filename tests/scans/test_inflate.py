"""What a gzip file holds, whole or not at all."""

import gzip
import io
import zlib

import pytest

from vitmed.scans import inflate
from vitmed.scans.inflate import Inflated


@pytest.fixture
def content(rng):
    """Three megabytes, of which half can be compressed: more than one piece either way."""
    return rng.integers(0, 16, 3 * 2**20).astype("u1").tobytes()


def read(data: bytes, count: int) -> bytes:
    into = bytearray(count)
    return bytes(into[: Inflated(io.BytesIO(data)).readinto(into)])


def test_it_is_what_gzip_reads(content):
    """Otherwise a volume is shifted where one piece meets the next."""
    held = Inflated(io.BytesIO(gzip.compress(content, 1)))
    assert held.read(540) == content[:540]
    assert held.seek(2_000_001) == 2_000_001 and held.read(999_000) == content[2_000_001:2_999_001]
    assert held.seek(352) == 352 and held.read(1000) == content[352:1352]
    assert held.seek(0) == 0 and held.readall() == content


def test_members_follow_one_another(content):
    """Otherwise of a file written by bgzip, in members of 64 KiB, only the first is read."""
    parts = [content[i : i + 65280] for i in range(0, 400_000, 65280)]
    data = b"".join(map(gzip.compress, parts)) + gzip.compress(b"")  # the last is its mark of the end
    assert read(data, 10**6) == b"".join(parts)
    assert read(data + bytes(100_000), 10**6) == b"".join(parts)  # padded


def test_a_header_costs_no_more_than_a_few_kilobytes(content):
    """Otherwise a look at each file of a folder reads all of it."""
    file = io.BytesIO(gzip.compress(content, 1))
    Inflated(file).read(540)
    assert file.tell() == inflate._LEAST


@pytest.mark.parametrize("count", [3 * 2**20, 2**20])
def test_what_is_cut_short_is_an_error(content, count):
    """Otherwise the rest of a volume is zeros."""
    data = gzip.compress(content, 1)
    with pytest.raises(EOFError, match="ends before"):
        read(data[: len(data) // 4], count)


def test_a_wrong_checksum_is_met_when_all_is_read(content):
    """Otherwise voxels that a disk has changed pass for a scan."""
    whole = gzip.compress(content, 1)
    data = bytearray(whole)
    data[-8] ^= 1
    with pytest.raises(zlib.error, match="incorrect data check"):
        read(bytes(data), len(content))
    assert read(bytes(data), 1000) == content[:1000]
    with pytest.raises(EOFError):
        read(whole[:-4], len(content))
