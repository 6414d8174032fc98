"""The scale of numbers to learn: mean and standard deviation of each label column, of known labels alone."""

import numpy as np


def label_scale(label: np.ndarray, known: np.ndarray) -> tuple[tuple[float, float], ...]:
    """The mean and the standard deviation of each column, in its unit.

    A column whose labels are all equal has the deviation 1, and one without a label the mean 0 as well.

    Args:
        label: (n, K).
        known: (n, K) booleans.
    """
    found = []
    for column in range(label.shape[1]):
        values = label[known[:, column], column].astype(np.float64)
        alike = not len(values) or np.ptp(values) == 0
        found.append((float(values.mean()) if len(values) else 0.0, 1.0 if alike else float(values.std())))
    return tuple(found)
