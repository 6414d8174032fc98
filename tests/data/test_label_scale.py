"""The scale of numbers: of known labels alone, and of what does not vary."""

import numpy as np
import pytest

from vitmed.data.label_scale import label_scale


def test_the_scale_is_of_the_known_labels_of_each_column():
    """Otherwise a missing label counts as 0, which no patient's age is."""
    label = np.array([[160.0, 7.1, 0], [180.0, 0, 0], [0, 7.1, 0]], np.float32)
    known = np.array([[1, 1, 0], [1, 0, 0], [0, 1, 0]], bool)
    tall, alike, nothing = label_scale(label, known)
    assert tall == pytest.approx((170, 10))
    assert alike == (pytest.approx(7.1), 1), "what does not vary would be divided by nothing"
    assert nothing == (0, 1)
