"""Every objective trains: in 2D and 3D, with 1 and 3 channels, none square; its slopes are those of its own loss.

Slopes are held to differences of the loss itself, along the direction that they give, so that a gradient which is cut
off or counted twice shows whatever the loss is.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from vitmed.objectives import registry
from vitmed.objectives.interface import Spec

SIZES = [((8, 12), (4, 4)), ((4, 8, 6), (2, 4, 3))]
STRUCTURES = (("1", (1,)), ("3", (3,)))
KEYS = {
    "self_distil": dict(locals=2, prototypes=8, hidden=8, bottleneck=4),
    "ijepa": dict(targets=2),
    # A teacher as new as its student is sure of nothing.
    "semi_teacher": dict(threshold=0.0, pseudo_mixup=False),
    "semi_teacher of masks": dict(threshold=0.0, task="segmentation"),
    "supervised of masks": dict(task="segmentation"),
}
NAMES = [*registry.OBJECTIVES, *(f"{name} of masks" for name in registry.OF_MASKS)]


@pytest.fixture(params=SIZES, ids=lambda s: f"{len(s[0])}D")
def grid(request):
    """(size, patch)."""
    return request.param


@pytest.mark.slow
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("name", NAMES)
def test_it_trains_by_the_slopes_of_its_loss(mite, rng, grid, name, channels):
    size, patch = grid
    spec = Spec(size, channels, "multiclass", 2, structures=STRUCTURES, steps=30)
    section = registry.section({"name": name.partition(" ")[0], **KEYS.get(name, {})})
    objective = registry.build(section, mite(patch, width=4), spec)
    params, memory = jax.jit(objective.init, static_argnums=1)(jax.random.key(0), spec)

    def stream(n):
        return {
            "image": jnp.asarray(rng.normal(size=(n, *size, channels)), jnp.float32),
            "label": jnp.asarray(rng.integers(2, size=(n, 1)), jnp.float32),
            "label_weight": jnp.ones((n, 1)),
            "mask": jnp.asarray(rng.choice([0, 1, 3], (n, *size)), jnp.uint8),
            "weight": jnp.ones(n),
            "spacing": jnp.ones((n, len(size))),
            "example": jnp.asarray(rng.integers(2**32, size=(n, 2)), jnp.uint32),
        }

    batch, key = {"main": stream(4), "unlabelled": stream(4)}, jax.random.key(1)
    slopes_of = jax.jit(jax.value_and_grad(lambda p: objective.loss(p, memory, batch, key)[0]))
    start, slopes = slopes_of(params)
    length = float(optax.tree.norm(slopes))
    assert length > 1e-3, "nothing is learned from"

    def moved(by):
        return jax.tree.map(lambda p, s: p + by / length * s, params, slopes)

    step = 2e-3 * abs(float(start)) / length  # well above rounding, well below the loss's curvature
    rise = (float(slopes_of(moved(step))[0]) - float(slopes_of(moved(-step))[0])) / (2 * step)
    assert rise == pytest.approx(length, rel=0.05)

    tx = optax.adam(3e-3)
    state = tx.init(params)
    for _ in range(30):
        updates, state = tx.update(slopes, state, params)
        params = optax.apply_updates(params, updates)
        value, slopes = slopes_of(params)
    assert np.isfinite(value) and float(value) < float(start) - 0.02 * abs(float(start))
