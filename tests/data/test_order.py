import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitmed.data.order import indices

seeds = st.integers(-(2**70), 2**70)


@given(seed=seeds, n=st.integers(1, 400), epoch=st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_every_epoch_is_a_permutation(seed, n, epoch):
    # An example missed or seen twice an epoch would bias training without a sign.
    assert sorted(indices(seed, epoch, n, n)) == list(range(n))


@given(
    seed=seeds, n=st.integers(1, 60), batch=st.integers(1, 130), step=st.integers(0, 10**9),
    split=st.integers(1, 5),
)  # fmt: skip
@settings(max_examples=60, deadline=None)
def test_steps_cut_one_endless_sequence(seed, n, batch, step, split):
    # The sequence must not depend on how it is cut: one large batch equals the smaller ones it holds, also
    # across the border of an epoch.
    whole = indices(seed, step, batch * split, n)
    parts = [indices(seed, step * split + i, batch, n) for i in range(split)]
    assert (np.concatenate(parts) == whole).all()


def test_epochs_and_seeds_differ():
    # A sequence repeated each epoch, or shared by two seeds, would be no shuffle.
    first = indices(0, 0, 100, 100)
    assert (indices(0, 1, 100, 100) != first).any() and (indices(1, 0, 100, 100) != first).any()


@pytest.mark.parametrize("n", [2, 3, 4, 10])
def test_each_place_is_uniform(n):
    # A weak round function would favour some examples early in an epoch.
    epochs = 3000
    counts = np.zeros((n, n))
    for epoch in range(epochs):
        counts[np.arange(n), indices(5, epoch, n, n)] += 1
    chi2 = ((counts - epochs / n) ** 2 / (epochs / n)).sum()
    freedom = (n - 1) ** 2
    assert chi2 < freedom + 5 * np.sqrt(2 * freedom)


def test_successive_ranks_are_not_neighbours():
    # Files are sorted by patient: an order that keeps neighbours together would fill a batch with one
    # patient.
    steps = np.abs(np.diff(indices(0, 0, 4096, 4096)))
    assert 4096 / 3 * 0.9 < steps.mean() < 4096 / 3 * 1.1


def test_a_trillion_examples_cost_a_batch():
    # The order may not be written out: this many would not fit in memory.
    drawn = indices(0, 10**9, 512, 2**40)
    assert drawn.dtype == np.int64 and len(set(drawn)) == 512 and drawn.min() >= 0 and drawn.max() < 2**40


def test_the_order_is_fixed_for_ever():
    # A changed order changes every published run: this golden may change only with a new format.
    assert indices(0, 0, 8, 4708).tolist() == [3011, 634, 630, 352, 922, 2846, 1392, 1769]


def test_out_of_range_is_refused():
    # Silently wrapping would train on the wrong examples.
    for step, n in ((0, 0), (-1, 5), (0, 2**40 + 1)):
        with pytest.raises(ValueError):
            indices(0, step, 4, n)
