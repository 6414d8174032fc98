"""Controls must find what is there and nothing that is not."""

import numpy as np
import pytest

from vitmed.errors import InputError
from vitmed.phantoms import controls
from vitmed.phantoms.example import SCANNERS, example


def test_permuted_labels_tell_nothing_of_real_phantoms():
    """An AUROC away from .5 under permutation is a leak in the control itself."""
    made = [example("xray", 0, p, s, (32, 32)) for p in range(60) for s in range(2)]
    images = np.stack([m.picture.image for m in made])
    labels, patients = np.array([m.label for m in made]), np.array([m.patient for m in made])
    components = controls.principal_components(images, 16)
    values = [controls.auroc(components, controls.permuted(labels, patients, s), patients) for s in range(5)]
    assert abs(np.mean(values) - 0.5) < 0.08


@pytest.mark.parametrize(
    "modality, size",
    [(modality, size) for modality in SCANNERS for size in ((24, 24), (8, 8, 8))],
)
def test_controls_see_little_in_any_modality(modality, size):
    """A label that shows without learning to see (by brightness, noise, site or order) is a leak: no control
    may be far above chance on any kind of scan. Below chance is none: pooled over folds, a model that learns
    nothing likes least the class of which a fold holds most."""
    found = controls.on_phantoms(modality, size, patients=40, scans_per_patient=1)
    assert set(found) == {"permuted labels", "random features", "principal components", "bag of patches"}
    assert all(value < 0.75 for value in found.values()), found


def test_a_leak_in_a_volume_is_found(monkeypatch):
    """The same controls must catch a label that is written into a volume's brightness."""

    def leaking(modality, seed, patient, scan, size):
        made = example(modality, seed, patient, scan, size)
        made.picture.image[:4] += np.int16(2000 * (made.label == "lesion"))
        return made

    monkeypatch.setattr(controls, "example", leaking)
    found = controls.on_phantoms("mr", (8, 8, 8), patients=60, scans_per_patient=1)
    assert found["principal components"] > 0.7 and found["random features"] > 0.65


def test_patches_that_do_not_fit_are_refused():
    """A reshape error deep in numpy would not say which size to give."""
    with pytest.raises(InputError, match="multiples of 8"):
        controls.on_phantoms("xray", (20, 24), patients=2)


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
