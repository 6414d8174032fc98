"""Which examples a step sees: a pure function of (seed, step), at the cost of one batch.

Positions 0, 1, 2, ... run through the training: step s of batch size B holds positions s*B ... s*B+B-1.
Position p lies in epoch p // n at rank p % n, and every epoch has its own permutation of the n examples. The
permutation is never written out: a Feistel network (Luby and Rackoff 1988) over Z_a x Z_b with additions
modulo a and b permutes [0, a*b) for any round function, and walking along its cycle until the value is below
n restricts it to [0, n) (Black and Rogaway 2002). With a = ceil(sqrt(n)) the domain is less than sqrt(n)
larger than n, so hardly any value walks. Integers only: the same on every machine and in every version of
NumPy.

Several datasets are mixed by cutting the same endless sequence of positions: dataset 1 takes position p where
floor((p + 1) w) is more than floor(p w), w being its share, and it is its example number floor(p w); the others
number what is left without a gap and go on likewise. So every stretch of positions holds each dataset in
proportion, to within one example a dataset, and each goes through its own epochs one after the other.
"""

import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np

ROUNDS = 8
LARGEST = 2**40


def indices(seed: int, step: int, batch_size: int, n: int) -> np.ndarray:
    """Indices into a split of ``n`` examples that make up the global batch of ``step``.

    Args:
        seed: any integer; its low 64 bits count.
        step: from 0.
        batch_size: of the global batch; it may exceed ``n``, and a batch may span epochs.
        n: number of examples, 1 to 2**40.

    Returns:
        (batch_size,) int64.

    Raises:
        ValueError: ``n`` or ``step`` out of range.
    """
    first = _first(step, batch_size)
    return _at(seed, range(first, first + batch_size), n)


def mixed(
    seed: int, step: int, batch_size: int, sizes: Sequence[int], weights: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Which dataset and which of its examples each row of the global batch of ``step`` is.

    The rows of a batch are in an order of their own, so that a process, or a pair of neighbours, gets no more of
    one dataset than of another.

    Args:
        sizes: number of examples of each dataset.
        weights: positive; the shares relative to one another, taken as written (0.1 is a tenth).

    Returns:
        (batch_size,) int64 numbers of datasets and (batch_size,) int64 indices into them.

    Raises:
        ValueError: a size or ``step`` out of range.
    """
    first = _first(step, batch_size)
    shuffled = indices(_seed(seed, len(sizes)), step, batch_size, batch_size)
    exact = [Fraction(str(weight)) for weight in weights]
    which = np.zeros(batch_size, np.int64)
    numbers = [first + int(place) for place in shuffled]  # positions, then places among what is left
    left = list(range(batch_size))
    for k in range(len(sizes)):
        up, down = (exact[k] / sum(exact[k:])).as_integer_ratio()
        others = []
        for row in left:
            before = numbers[row] * up // down
            if (numbers[row] + 1) * up // down > before:
                which[row], numbers[row] = k, before
            else:
                numbers[row] -= before
                others.append(row)
        left = others
    index = np.zeros(batch_size, np.int64)
    for k, size in enumerate(sizes):
        rows = np.flatnonzero(which == k)
        index[rows] = _at(_seed(seed, k), [numbers[row] for row in rows], size)
    return which, index


def _seed(seed: int, k: int) -> int:
    """A seed of its own for each dataset of a mix, and one more for the rows."""
    words = np.array([seed & 0xFFFFFFFFFFFFFFFF, k], np.uint64)
    return int(_mix(_mix(words[:1]) + words[1:])[0])


def _first(step: int, batch_size: int) -> int:
    if step < 0:
        raise ValueError(f"step is {step}; steps count from 0")
    return step * batch_size


def _at(seed: int, positions: Sequence[int], n: int) -> np.ndarray:
    """(len(positions),) int64: the example at each position of the endless sequence over ``n``."""
    if not 1 <= n <= LARGEST:
        raise ValueError(f"n is {n}; 1 to 2**40 examples can be ordered")
    epochs = np.array([position // n for position in positions], np.uint64)
    ranks = np.array([position % n for position in positions], np.uint64)
    keys = _mix(epochs ^ _mix(np.array([seed & 0xFFFFFFFFFFFFFFFF], np.uint64)))
    out = _feistel(ranks, keys, n)
    while (outside := np.flatnonzero(out >= n)).size:
        out[outside] = _feistel(out[outside], keys[outside], n)
    return out.astype(np.int64)


def _feistel(values: np.ndarray, keys: np.ndarray, n: int) -> np.ndarray:
    """Permutes [0, a*b), a*b >= n, under one key a value."""
    a = math.isqrt(n - 1) + 1
    b = -(-n // a)
    left, right = values % np.uint64(a), values // np.uint64(a)
    for turn in range(ROUNDS):
        salt = keys + np.uint64(turn)
        if turn % 2:
            right = (right + _mix(salt ^ _mix(left)) % np.uint64(b)) % np.uint64(b)
        else:
            left = (left + _mix(salt ^ _mix(right)) % np.uint64(a)) % np.uint64(a)
    return left + np.uint64(a) * right


def _mix(x: np.ndarray) -> np.ndarray:
    """The finaliser of SplitMix64 (Steele, Lea and Flood 2014): a bijection of 64-bit words that wraps."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
