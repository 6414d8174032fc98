"""Convolutions: of volumes by their planes, the numbers that XLA's own give."""

import jax
import numpy as np
import pytest

from vitmed.models.convolution import Convolution


@pytest.mark.parametrize("kernel", [1, 3, 7])
@pytest.mark.parametrize(
    ("size", "stride"),
    [((7, 6), (1, 2)), ((7, 6, 9), (1, 1, 1)), ((7, 6, 9), (2, 1, 2)), ((4, 5, 8), (2, 2, 2))],
)
def test_planes_put_together_are_the_convolution_of_the_volume(size, stride, kernel):
    """Otherwise a CNN in 3D is another network than the published one."""
    layer = Convolution(3, kernel, stride)
    x = jax.random.normal(jax.random.key(0), (2, *size, 2))
    params = layer.init(jax.random.key(1), x)
    space = "DHW"[-len(size) :]
    layout = (f"N{space}C", f"{space}IO", f"N{space}C")
    weights = params["params"]["kernel"]
    assert weights.shape == (*(kernel,) * len(size), 2, 3)
    whole = jax.lax.conv_general_dilated(x, weights, stride, "SAME", dimension_numbers=layout)
    np.testing.assert_allclose(layer.apply(params, x), whole, rtol=1e-4, atol=1e-5)
