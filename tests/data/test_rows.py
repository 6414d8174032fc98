"""Rows in a file are the array that they would be in memory."""

import numpy as np
import pytest

from vitmed.data import alike, spool
from vitmed.data.rows import Rows


def test_rows_come_back_as_they_were_written(tmp_path, rng):
    """Otherwise scans are compared by the signatures of others."""
    whole = rng.normal(size=(11, 3, 4)).astype(np.float16)
    rows = Rows(11, (3, 4), np.float16, tmp_path)
    rows[6] = whole[6:]
    rows[0] = whole[:6]
    assert rows.shape == whole.shape and rows.ndim == 3 and len(rows) == 11
    for which in (4, slice(2, 9), slice(8, 30), np.array([10, 0, 0, 7]), np.int64(3)):
        np.testing.assert_array_equal(rows[which], whole[which])
    assert list(tmp_path.iterdir()) == []  # without a name, so nothing can be left behind
    with pytest.raises(IndexError, match="never written"):
        Rows(2, (5,), np.uint8, tmp_path)[1]


def test_what_looks_alike_is_found_across_blocks(tmp_path, rng, monkeypatch):
    """Otherwise copies are found only where both fall into one block."""
    pictures = [rng.uniform(size=(40, 40)) for _ in range(9)]
    pictures += [pictures[1] * 0.8 + 0.1, pictures[7][:, ::-1]]
    held = np.stack([alike.signature(p) for p in pictures])
    rows = Rows(len(held), held.shape[1:], held.dtype, tmp_path)
    rows[0] = held
    monkeypatch.setattr(alike, "_BLOCK", 4)
    assert alike.links(rows, (40, 40), tmp_path).tolist() == [[1, 9], [7, 10]]


def test_what_scans_have_in_common_is_held_once():
    """Otherwise 100,000 scans hold 100,000 equal spacings and identity matrices: more than a gigabyte."""
    common = dict.fromkeys(("scale", "offset", "spacing", "affine", "grid", "read_size", "read_spacing"))
    made = [
        spool.Stored(
            id=f"s{k}",
            modality="ct",
            orientation="",
            digest=bytes([k]),
            total=np.array([1.0 * k]),
            square=np.array([2.0 * k]),
            histogram=np.arange(64) * 4 * k,
            marked=None,
            exposed=(),
            patient="p",
            site="",
            telling=(),
            shape=(4, 4, 1),
            dtype=np.dtype(np.int16),
            file="spool/0",
            start=k,
            mask_bytes=0,
            check=k,
            **{name: np.full(3, np.nan, np.float32) for name in common},
        )
        for k in range(1, 3)
    ]
    known: dict = {}
    one, two = (spool._lean(scan, known) for scan in made)
    for name in common:
        assert getattr(one, name) is getattr(two, name) and np.isnan(getattr(one, name)).all()
    for lean, scan in zip((one, two), made, strict=True):
        assert (lean.id, lean.start, lean.digest) == (scan.id, scan.start, scan.digest)
        np.testing.assert_array_equal(lean.histogram, scan.histogram)
        np.testing.assert_array_equal(lean.total, scan.total)
    assert one.histogram.dtype == np.uint8 and two.histogram.dtype == np.uint16
