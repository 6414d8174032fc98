from concurrent.futures import ThreadPoolExecutor

import pytest

from vitmed.errors import InputError
from vitmed.runs import ledger


def test_each_split_of_each_dataset_is_counted_by_itself(tmp_path):
    """Else a test split that was looked at often looks fresh."""
    assert ledger.count(tmp_path, "abc", "test") == 0
    assert [ledger.record(tmp_path, "abc", split, 400) for split in ("test", "val", "test")] == [1, 1, 2]
    assert ledger.record(tmp_path, "other", "test", 400) == 1
    assert ledger.count(tmp_path, "abc", "test") == 2
    assert ledger.entries(tmp_path)[0] | {"time": ""} == {
        "dataset": "abc",
        "split": "test",
        "checkpoint": 400,
        "time": "",
    }


def test_evaluations_at_once_are_all_noted(tmp_path):
    """Else one of two parallel evaluations is forgotten."""
    with ThreadPoolExecutor(8) as pool:
        counts = list(pool.map(lambda _: ledger.record(tmp_path, "abc", "test", 1), range(24)))
    assert sorted(counts) == list(range(1, 25))


def test_a_damaged_ledger_is_not_begun_anew(tmp_path):
    """Else damaging the ledger resets the count."""
    (tmp_path / "ledger.json").write_text('{"format": 1, "evalu')
    with pytest.raises(InputError, match="ledger.json is not JSON"):
        ledger.record(tmp_path, "abc", "test", 1)
