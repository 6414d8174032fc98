import json

import ml_dtypes
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from vitmed.runs import bundle

KINDS = st.sampled_from([np.float32, np.int32, np.bool_, np.float64, np.uint8, ml_dtypes.bfloat16])
BITS = st.builds(
    lambda kind, shape, seed: (np.random.default_rng(seed).normal(size=shape) * 9).astype(kind),
    KINDS,
    hnp.array_shapes(min_dims=0, max_dims=3, max_side=4),
    st.integers(0, 9),
)
TREES = st.dictionaries(
    st.sampled_from("abc"),
    st.recursive(
        BITS | st.none(), lambda inner: st.dictionaries(st.sampled_from("xyz"), inner), max_leaves=6
    ),
    max_size=3,
)


def equal(one, other):
    if isinstance(one, dict):
        return (
            isinstance(other, dict) and list(one) == list(other) and all(equal(one[k], other[k]) for k in one)
        )
    if one is None:
        return other is None
    return (one.dtype, one.shape, one.tobytes()) == (other.dtype, other.shape, other.tobytes())


@settings(max_examples=60, deadline=None)
@given(TREES, st.sampled_from([0, 20, 2**20]))
def test_unbundle_is_the_inverse_of_bundle(tree, small):
    """Else a state read back from a checkpoint is another state."""
    kept, bundle.SMALL = bundle.SMALL, small
    try:
        arrays, index = bundle.bundle(tree)
    finally:
        bundle.SMALL = kept
    assert equal(bundle.unbundle(arrays, json.loads(json.dumps(index))), tree)


def test_a_bundle_shares_no_memory_with_the_state():
    """Else the next training step, which reuses the buffers, changes a checkpoint while it is written."""
    tree = {"a": {"small": np.ones(3), "large": np.ones(bundle.SMALL)}}
    arrays, _ = bundle.bundle(tree)
    assert not any(np.shares_memory(array, leaf) for array in arrays.values() for leaf in tree["a"].values())
