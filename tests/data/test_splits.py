from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitmed.data import duplicates, splits
from vitmed.errors import InputError


def scans(patients, each=3, classes=2):
    ids = [f"p{p:03}/{k}" for p in range(patients) for k in range(each)]
    who = [i.split("/")[0] for i in ids]
    return ids, who, [str(int(p[1:]) % classes) for p in who]


def make(patients, given=None, **more):
    ids, who, strata = scans(patients)
    return who, strata, splits.make(ids, who, strata, given or [None] * len(ids), **more)


def test_no_patient_is_on_two_sides_and_shares_are_kept():
    """Otherwise a model is tested on people it was trained on, or a class is missing where it is tested."""
    who, strata, found = make(100)
    sides = {p: {s for q, s in zip(who, found.split, strict=True) if q == p} for p in set(who)}
    assert all(len(side) == 1 for side in sides.values())
    assert Counter(found.split) == {"train": 240, "val": 30, "test": 30}
    for name in splits.NAMES:
        held = Counter(c for c, s in zip(strata, found.split, strict=True) if s == name)
        assert abs(held["0"] - held["1"]) <= 3
    assert (found.how, found.by) == ("80/10/10", "patient")


def test_the_seed_draws_and_the_order_of_files_does_not_matter():
    """Otherwise the split depends on the file system, or cannot be drawn again."""
    ids, who, strata = scans(50)
    once = dict(zip(ids, splits.draw(who, strata, (0.8, 0.1, 0.1), 0), strict=True))
    turned = [list(reversed(x)) for x in (ids, who, strata)]
    assert dict(zip(turned[0], splits.draw(turned[1], turned[2], (0.8, 0.1, 0.1), 0), strict=True)) == once
    assert dict(zip(ids, splits.draw(who, strata, (0.8, 0.1, 0.1), 1), strict=True)) != once


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(1, 4), min_size=10, max_size=60), st.integers(0, 5))
def test_parts_are_near_their_fractions(sizes, seed):
    """Otherwise a few large patients, or many small classes, leave nothing to test on."""
    groups = [f"g{i}" for i, n in enumerate(sizes) for _ in range(n)]
    held = Counter(splits.draw(groups, [str(len(g) % 3) for g in groups], (0.6, 0.2, 0.2), seed))
    for name, fraction in zip(splits.NAMES, (0.6, 0.2, 0.2), strict=True):
        assert abs(held[name] - fraction * len(groups)) <= 3 * max(sizes)


def test_few_patients_all_train_and_are_told_so():
    """Otherwise one patient becomes a test set and its number is believed."""
    _, _, found = make(9)
    assert set(found.split) == {"train"} and "Fewer than 10 patients (9)" in " ".join(found.notes)
    assert (found.how, found.too_few) == ("80/10/10", True)
    _, _, asked = make(9, asked="60/20/20")
    assert set(asked.split) == {"train", "val", "test"}, "who asks for a split gets it"


def test_given_splits_are_kept_and_their_leaks_told():
    """Otherwise an official test set is mixed into training, or its leak of patients goes unnoticed."""
    given_splits = ["train", "val", "train"] * 20
    who, _, found = make(20, given=given_splits)
    assert found.split == given_splits and found.how == "given"
    assert "share 20 patients" in found.notes[0]
    _, _, overruled = make(20, given=given_splits, asked="train")
    assert set(overruled.split) == {"train"}


def test_half_given_splits_are_refused():
    """Otherwise the rest is put somewhere nobody chose."""
    with pytest.raises(InputError, match=r"40 of 60 scans have no split.*p000/0"):
        make(20, given=[None, "val", None] * 20)


@pytest.mark.parametrize("text", ["80/10", "80/10/20", "0/50/50", "a/b/c", "100", ""])
def test_a_rule_that_is_none_is_refused(text):
    """Otherwise a typing mistake becomes a split."""
    with pytest.raises(InputError, match="--split"):
        splits.rule(text)


def test_without_patients_images_are_split_and_it_is_said():
    """Otherwise the reader believes that the split is by patient."""
    ids, _, strata = scans(20)
    found = splits.make(ids, [""] * len(ids), strata, [None] * len(ids))
    assert found.by == "image" and "No patients are known" in found.notes[0]
    assert Counter(found.split) == {"train": 48, "val": 6, "test": 6}


def test_copies_are_counted_within_and_across_splits():
    """Otherwise leakage is missed: the counts are a contract of `inspect --json`."""
    digests = [b"a", b"a", b"a", b"b", b"a", b"b", b"c", b"c", b"d"]
    where = ["train", "train", "train", "train", "val", "test", "test", "test", "test"]
    assert duplicates.count(digests, where) == {
        "train": 2,
        "val": 0,
        "test": 1,
        "train/val": 1,
        "train/test": 1,
        "val/test": 0,
    }
    assert duplicates.groups(digests, list("123456789")) == [["1", "2", "3", "5"], ["4", "6"], ["7", "8"]]
