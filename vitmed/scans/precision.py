"""How many bits the arithmetic on a scan's values needs."""

import numpy as np

_FAR = 2**8  # times its range that values may lie from 0: float32 keeps 16 bits of the range then
_LARGE = 1e30  # whose products may leave float32


def working(dtype: np.dtype, low: float, high: float) -> type:
    """float32, or float64 for values from ``low`` to ``high`` that lie far from 0, such as seconds since 1970.

    Args:
        dtype: of the values; those of 16 bits are exact in float32 wherever they lie.
    """
    far = max(abs(low), abs(high))
    wide = dtype.itemsize > 2 and (far > _FAR * (high - low) or far > _LARGE)
    return np.float64 if wide else np.float32
