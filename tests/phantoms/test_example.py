"""One example is a function of its address; disease obeys its design."""

from collections import Counter

import numpy as np
import pytest

from vitmed.errors import InputError
from vitmed.phantoms import tissues, tomosynthesis
from vitmed.phantoms.anatomy import Part
from vitmed.phantoms.breast import breast
from vitmed.phantoms.chest import chest
from vitmed.phantoms.example import SIZES, example
from vitmed.phantoms.findings import CLASSES, FREQUENCY, arrangement, findings, label
from vitmed.phantoms.streams import stream
from vitmed.physics.ellipsoids import Ellipsoid

CASES = [("xray", (64, 64)), ("ct", (16, 24, 24)), ("ct", (32, 32)), ("mr", (16, 16, 16)), ("mr", (32, 32))]
CASES += [("ultrasound", (48, 48)), ("ultrasound", (12, 16, 20)), ("xray", (20, 12, 24))]


@pytest.mark.parametrize("modality, size", CASES)
def test_same_address_same_scan(modality, size):
    """An example that depended on what was made before it could not be made again."""
    first = example(modality, 3, 5, 1, size)
    example(modality, 3, 6, 0, size)
    again = example(modality, 3, 5, 1, size)
    assert first.picture.image.shape == first.picture.truth.shape == size
    assert np.array_equal(first.picture.image, again.picture.image)
    assert np.array_equal(first.picture.truth, again.picture.truth) and first.label == again.label
    other = example(modality, 3, 5, 2, size)
    assert not np.array_equal(first.picture.image, other.picture.image)


@pytest.mark.parametrize("modality, size", CASES)
def test_image_uses_its_range(modality, size):
    """A saturated or empty picture would hide the disease."""
    images = [example(modality, 0, p, 0, size).picture.image.astype(float) for p in range(3)]
    for image in images:
        assert image.std() > 0.02 * (image.max() - image.min()) > 0
        assert (image == image.max()).mean() < 0.25


def test_scans_of_a_patient_are_alike():
    """Patients must be recognisable, or splitting by patient would not matter."""
    images = np.stack([[example("xray", 0, p, s).picture.image for s in range(2)] for p in range(6)]).astype(
        float
    )
    rows = images.reshape(12, -1)
    distance = np.linalg.norm(rows[:, None] - rows[None], axis=-1)
    own = np.mean([distance[2 * i, 2 * i + 1] for i in range(6)])
    others = distance[np.arange(12)[:, None] // 2 != np.arange(12)[None] // 2].mean()
    assert own < 0.8 * others


def test_classes_have_their_frequencies_and_persist():
    """The balance is .4/.3/.3; two scans of a patient agree more often than two patients do."""
    labels = np.array([[label(0, "xray", p, s) for s in range(2)] for p in range(2000)])
    for name, expected in zip(CLASSES, FREQUENCY, strict=True):
        assert abs((labels == name).mean() - expected) < 0.035
    agreement, chance = (labels[:, 0] == labels[:, 1]).mean(), np.square(FREQUENCY).sum()
    assert abs(agreement - (chance + 0.25 * (1 - chance))) < 0.05  # both of the patient's own: .5 x .5


def test_no_place_tells_the_pair():
    """Each of the four places is taken equally often in each class, and always two of them: only the
    conjunction differs."""
    counts = {}
    for name in CLASSES:
        drawn = [arrangement(name, stream(0, "test", p)) for p in range(1000)]
        counts[name] = Counter(place for pair in drawn for place in pair)
        opposite = {upper.split()[1] != lower.split()[1] for upper, lower in drawn}
        assert opposite == {name == "paired"}
    for place in ("upper left", "upper right", "lower left", "lower right"):
        assert all(abs(counts[name][place] / 1000 - 0.5) < 0.05 for name in CLASSES)


@pytest.mark.parametrize("size", [(32, 32), (16, 16, 16)])
@pytest.mark.parametrize("modality", list(SIZES))
def test_findings_are_as_labelled(modality, size):
    """A lesion is in the truth of every `lesion` and of no other scan; everybody has two patches."""
    for patient in range(8):
        made = example(modality, 1, patient, 0, size)
        kinds = Counter(f.kind for f in made.findings)
        assert kinds["lesion"] == (made.label == "lesion") and kinds["patch"] == 2
        assert (made.picture.truth == 1).any() == (made.label == "lesion")
        assert (made.picture.truth == 2).any()


def test_some_lesions_are_iso_intense():
    """About one lesion in seven shows by its capsule alone."""
    details = []
    for patient in range(150):
        region = chest(stream(0, "body", patient), stream(0, "pose", patient), False)
        found = findings(region, "lesion", 0, "xray", patient, 0)
        details += [f.detail for f in found if f.kind == "lesion"]
    assert len(details) == 150 and 0.05 < np.mean(np.array(details) == "iso-intense") < 0.25


def test_ct_is_in_hounsfield_units():
    """Air -1000, lung about -790, soft tissue about 40."""
    hu = example("ct", 0, 1, 0, (96, 96)).picture.image
    assert abs(np.median(hu[:6, :6]) + 1000) < 40
    assert abs(np.median(hu[(hu > -900) & (hu < -600)]) + 780) < 60
    assert abs(np.median(hu[(hu > -30) & (hu < 120)]) - 40) < 25


@pytest.mark.parametrize("size", [(32, 32), (12, 16, 16)])
def test_sites_differ(size):
    """The second site's pictures are made differently: a shift for which domain adaptation has a use."""
    made = [example("ultrasound", 0, p, 0, size) for p in range(12)]
    mean = {site: np.mean([m.picture.image.mean() for m in made if m.site == site]) for site in "AB"}
    assert abs(mean["A"] - mean["B"]) > 5


def test_radiograph_and_tomosynthesis_show_one_patient():
    """The two X-rays of one address are of one body in one pose, with the same disease."""
    flat, deep = example("xray", 0, 3, 0, (32, 32)), example("xray", 0, 3, 0, (32, 12, 32))
    assert flat.label == deep.label and flat.site == deep.site
    assert [f.detail for f in flat.findings] == [f.detail for f in deep.findings]
    through = deep.picture.image.astype(float).sum(1)[::-1]
    assert np.corrcoef(through.ravel(), flat.picture.image.ravel())[0, 1] > 0.8


def test_tomosynthesis_puts_a_thing_in_its_place():
    """A volume that is mirrored, along any axis, would not fit the mask beside it."""
    trunk = Part("torso", (Ellipsoid.of((0, 0, 0), (500, 110, 160)),), tissues.SOFT, tissues.AIR)
    spot = Part("decoy", (Ellipsoid.of((70, -45, 60), (12, 12, 12)),), tissues.LUNG, tissues.SOFT)
    size = (32, 12, 32)
    whole, hollow = (
        tomosynthesis.render(parts, [], size, "A", stream(0, "test")).image.astype(float)
        for parts in ([trunk], [trunk, spot])
    )
    cell = np.floor(np.array((70, -45, 60)) / np.array(tomosynthesis.FIELD) * size + np.array(size) / 2)
    darkest = np.unravel_index((whole - hollow).argmax(), size)
    assert np.abs(np.array(darkest) - cell).max() <= 1


def test_a_picture_is_a_plane_of_the_breast_that_a_volume_shows():
    """What a picture's breast is made of is in the volume's breast too, in its place; only more lies
    beside."""
    flat, deep = (
        breast(stream(0, "body", 3), stream(0, "pose", "ultrasound", 3, 0), kind) for kind in (True, False)
    )

    def placed(region):
        return {(p.name, *p.body[0].centre) for p in region.parts}

    assert placed(flat) < placed(deep)
    assert all(name in ("lobule", "duct") and abs(z) >= 8 for name, z, *_ in placed(deep) - placed(flat))
    assert {place[0] for place in flat.places.values()} == {0.0}
    assert np.ptp([place[0] for place in deep.places.values()]) == 18


@pytest.mark.parametrize("modality, size", [("xray", (8, 8, 8, 8)), ("ultrasound", (4, 4)), ("pet", None)])
def test_what_is_not_simulated_is_refused(modality, size):
    """A wrong dimension must be a sentence, not a shape error deep in the physics."""
    with pytest.raises(InputError):
        example(modality, 0, 0, 0, size)
