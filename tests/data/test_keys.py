import jax
import numpy as np

from vitmed.data.keys import example_keys, step_key


def words(n, seed=0):
    return np.random.Generator(np.random.Philox(key=seed)).integers(0, 2**32, (n, 2), dtype=np.uint32)


def data(keys):
    return np.asarray(jax.random.key_data(keys))


def test_keys_do_not_depend_on_the_batch_around_them():
    # Else augmentation and masks would change with the number of hosts, and a resumed run would differ.
    key, examples = step_key(3, 11), words(6)
    whole = data(example_keys(key, examples))
    order = np.array([4, 0, 5])
    assert (data(example_keys(key, examples[order])) == whole[order]).all()


def test_steps_seeds_and_both_words_matter():
    # Two examples that share a word, two steps or two seeds must not draw the same noise.
    examples = np.array([[1, 2], [2, 1], [1, 3], [3, 2]], np.uint32)
    keys = [data(example_keys(step_key(seed, step), examples)) for seed in (0, 1) for step in (0, 1)]
    assert len({tuple(row) for row in np.concatenate(keys)}) == 16


def test_traced_step_gives_the_same_key():
    # The loop folds a step it carries on the device; the tests and evaluation fold a Python integer.
    assert (data(jax.jit(step_key)(7, 2**31 - 1)) == data(step_key(7, 2**31 - 1))).all()


def test_an_example_that_is_in_a_batch_again_draws_again():
    # Else ten labels in a batch of 128 are ten rows, computed thirteen times each.
    key, twice = step_key(3, 11), words(2)[[0, 1, 0, 0]]
    keys = data(example_keys(key, np.column_stack([twice, np.array([0, 0, 1, 2], np.uint32)])))
    assert len({tuple(row) for row in keys}) == 4
    assert (keys[:2] == data(example_keys(key, twice[:2]))).all(), "the first time as if there were no other"
