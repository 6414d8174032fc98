"""Every objective on every kind of backbone: the slopes exist and have the parameters' shapes, in 2D and 3D.

By shape alone, so that all pairs take seconds; that the numbers are right is shown of the backbones by themselves.
"""

import jax
import jax.numpy as jnp
import pytest

from vitmed.objectives import registry
from vitmed.objectives.interface import Spec

KEYS = {
    "self_distil": dict(locals=2, prototypes=8, hidden=8, bottleneck=4),
    "ijepa": dict(targets=2),
}
BACKBONES = {
    "learned": dict(positions="learned", registers=2),
    # Its stream is float32 beside products, and a plain decoder or predictor, in bfloat16.
    "modern": dict(preset="modern", scan=True, dtype="bfloat16"),
}


@pytest.mark.parametrize("backbone", list(BACKBONES))
@pytest.mark.parametrize("name", list(registry.OBJECTIVES))
def test_slopes_for_every_parameter(mite, shape, name, backbone):
    """Multi-crop brings other grids, masks bring visible patches alone, I-JEPA brings a context."""
    size, patch, channels = shape
    spec = Spec(size, channels, "multiclass", 2, steps=4)
    model = mite(patch, **BACKBONES[backbone])
    objective = registry.build(registry.section({"name": name, **KEYS.get(name, {})}), model, spec)
    params, memory = jax.eval_shape(lambda: objective.init(jax.random.key(0), spec))
    stream = {
        "image": jnp.zeros((2, *size, channels)),
        "label": jnp.zeros((2, 1)),
        "label_weight": jnp.ones((2, 1)),
        "weight": jnp.ones(2),
        "spacing": jnp.ones((2, len(size))),
        "example": jnp.arange(4, dtype=jnp.uint32).reshape(2, 2),
    }
    batch = {"main": stream, "unlabelled": stream}

    def slopes(params, memory):
        return jax.grad(lambda p: objective.loss(p, memory, batch, jax.random.key(0))[0])(params)

    made = jax.eval_shape(slopes, params, memory)
    assert jax.tree.map(jnp.shape, made) == jax.tree.map(jnp.shape, params)
    after = jax.eval_shape(objective.after_update, params, memory, jnp.zeros((), jnp.int32))
    assert jax.tree.map(jnp.shape, after) == jax.tree.map(jnp.shape, memory)
