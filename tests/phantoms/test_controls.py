"""Controls must find what is there and nothing that is not."""

import numpy as np

from vitmed.phantoms import controls
from vitmed.phantoms.example import example


def test_permuted_labels_tell_nothing_of_real_phantoms():
    """An AUROC away from .5 under permutation is a leak in the control itself."""
    made = [example("xray", 0, p, s, (32, 32)) for p in range(60) for s in range(2)]
    images = np.stack([m.picture.image for m in made])
    labels, patients = np.array([m.label for m in made]), np.array([m.patient for m in made])
    components = controls.principal_components(images, 16)
    values = [controls.auroc(components, controls.permuted(labels, patients, s), patients) for s in range(5)]
    assert abs(np.mean(values) - 0.5) < 0.08


def test_permutation_keeps_blocks():
    """Scans of a patient must keep their agreement, else the control passes too easily."""
    patients = np.repeat(np.arange(50), 4)
    labels = np.repeat(np.random.default_rng(0).integers(0, 3, 50), 4)
    dealt = controls.permuted(labels, patients).reshape(50, 4)
    assert (dealt == dealt[:, :1]).all() and not np.array_equal(dealt.ravel(), labels)
    assert np.array_equal(np.bincount(dealt.ravel()), np.bincount(labels))


def test_a_bright_spot_is_found_by_every_control():
    """A control that cannot see the plainest difference says nothing when it sees none."""
    generator = np.random.default_rng(0)
    labels, patients = np.repeat(generator.permutation(60) % 2, 2), np.repeat(np.arange(60), 2)
    images = generator.normal(size=(120, 16, 16))
    images[labels == 1, 4:12, 4:12] += 3
    found = controls.controls(images, labels, patients)
    assert all(found[name] > 0.9 for name in ("random features", "principal components", "bag of patches"))
    assert abs(found["permuted labels"] - 0.5) < 0.2


def test_bag_of_patches_forgets_place():
    """Moving patches about must not change the bag: that is what makes it a control for `paired`."""
    images = np.random.default_rng(0).normal(size=(20, 16, 16))
    swapped = np.roll(images, 8, axis=1)
    both = controls.bag_of_patches(np.concatenate([images, swapped]), patch=8, words=8)
    assert np.allclose(both[:20], both[20:])
