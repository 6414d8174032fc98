import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vitmed.data.order import indices, mixed

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


SIZES, WEIGHTS = (7, 300, 41), (0.5, 0.3, 0.2)


@given(seed=seeds, step=st.integers(0, 10**7), batch=st.integers(1, 70), split=st.integers(1, 5))
@settings(max_examples=60, deadline=None)
def test_every_stretch_holds_each_dataset_in_proportion(seed, step, batch, split):
    # Weights that hold on average only would let a run of bad luck train on one dataset.
    which = np.concatenate([mixed(seed, step * split + i, batch, SIZES, WEIGHTS)[0] for i in range(split)])
    counts = np.bincount(which, minlength=3)
    assert (np.abs(counts - len(which) * np.array(WEIGHTS)) <= 2).all()


@pytest.mark.parametrize("batch", [1, 16, 64])
def test_each_dataset_of_a_mix_goes_through_its_own_epochs(batch):
    # An example drawn again before its dataset has been seen once would be drawn with luck, not by weight.
    drawn = [mixed(3, step, batch, SIZES, WEIGHTS) for step in range(2048 // batch)]
    which, index = (np.concatenate(parts) for parts in zip(*drawn, strict=True))
    for k, n in enumerate(SIZES):
        counts = np.bincount(index[which == k], minlength=n)
        epochs = (which == k).sum() / n
        # Rows of one batch are shuffled, so the border of an epoch may lie anywhere in it.
        assert (
            len(counts) == n and np.ptp(counts) <= 1 and np.floor(epochs) <= counts.max() <= np.ceil(epochs)
        )


def test_a_mix_is_one_sequence_however_it_is_cut():
    # The first 64 positions must hold the same examples as one batch or as eight.
    def pairs(step, batch):
        return sorted(zip(*(a.tolist() for a in mixed(5, step, batch, SIZES, WEIGHTS)), strict=True))

    assert pairs(3, 64) == sorted(sum((pairs(24 + i, 8) for i in range(8)), []))


def test_the_rows_of_a_mix_are_shuffled():
    # Datasets in turn would make neighbours, and the slices of processes, of one kind.
    rows = np.stack([mixed(0, step, 8, (50, 50), (1, 1))[0] for step in range(400)])
    assert (rows.sum(1) == 4).all()
    assert (np.abs(rows.mean(0) - 0.5) < 0.12).all()
    alike = (rows[:, 0] == rows[:, 1]).mean()  # 3 in 7 pairs of a shuffled batch
    assert abs(alike - 3 / 7) < 0.12


def test_datasets_of_a_mix_have_orders_of_their_own():
    # Two of one size in step would show the same pairs of examples for ever.
    which, index = mixed(0, 0, 200, (100, 100), (1, 1))
    assert (index[which == 0] != index[which == 1]).mean() > 0.9
    assert (mixed(1, 0, 200, (100, 100), (1, 1))[1] != index).mean() > 0.9


def test_a_late_step_of_a_mix_costs_a_batch():
    # Exact arithmetic: no count is lost to rounding after a trillion positions.
    which, index = mixed(0, 10**10, 512, (2**40, 2**39, 3), (0.1, 0.8999, 0.0001))
    assert (np.abs(np.bincount(which, minlength=3) - 512 * np.array([0.1, 0.8999, 0.0001])) <= 2).all()
    assert index.min() >= 0 and (index[which == 2] < 3).all()


def test_the_order_of_a_mix_is_fixed_for_ever():
    # As for one dataset.
    which, index = mixed(0, 2, 6, SIZES, WEIGHTS)
    assert (which.tolist(), index.tolist()) == ([0, 1, 1, 0, 2, 0], [1, 162, 147, 6, 21, 0])
