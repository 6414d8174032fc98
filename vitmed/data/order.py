"""Which examples a step sees: a pure function of (seed, step), at the cost of one batch.

Positions 0, 1, 2, ... run through the training: step s of batch size B holds positions s*B ... s*B+B-1.
Position p lies in epoch p // n at rank p % n, and every epoch has its own permutation of the n examples. The
permutation is never written out: a Feistel network (Luby and Rackoff 1988) over Z_a x Z_b with additions
modulo a and b permutes [0, a*b) for any round function, and walking along its cycle until the value is below
n restricts it to [0, n) (Black and Rogaway 2002). With a = ceil(sqrt(n)) the domain is less than sqrt(n)
larger than n, so hardly any value walks. Integers only: the same on every machine and in every version of
NumPy.
"""

import math

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
    if not 1 <= n <= LARGEST:
        raise ValueError(f"n is {n}; 1 to 2**40 examples can be ordered")
    if step < 0:
        raise ValueError(f"step is {step}; steps count from 0")
    first = step * batch_size
    epochs = np.array([(first + i) // n for i in range(batch_size)], np.uint64)
    ranks = np.array([(first + i) % n for i in range(batch_size)], np.uint64)
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
