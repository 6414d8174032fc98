"""What validation says is of the whole set, and not of how it happens to be batched."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from vitmed.objectives import mae, segmentation, semi_masked, supervised, tallies
from vitmed.objectives.interface import Spec
from vitmed.scans.layout import UNMARKED

SIZE, PATCH, SCANS = (8, 8), (4, 4), 8


def labels(rng):
    """Findings of each scan, of which half are known, and none of the first four scans."""
    weight = rng.choice([0.0, 1.0], (SCANS, 2))
    weight[:4] = 0
    return {"label": rng.choice([0.0, 1.0], (SCANS, 2)), "label_weight": weight}


def masks(rng):
    """One structure in the last scans alone, another of which little is marked, and a third in no scan."""
    mask = np.zeros((SCANS, *SIZE), np.uint8)
    mask[6:, 2:6, 1:5], mask[:3, :3], mask[4] = 1, 2, UNMARKED
    return {"mask": mask}


def air(rng):
    """The first scans are dark but for a corner."""
    image = rng.uniform(0.3, 1, (SCANS, *SIZE, 1)).astype(np.float32)
    image[:4, :, 4:] = 0
    return {"image": image}


FINDINGS = Spec(SIZE, 1, "multilabel", 2, window=((0.0, 1.0),))
STRUCTURES = Spec(SIZE, 1, structures=(("box", (1,)), ("corner", (2,)), ("absent", (3,))))


@pytest.mark.parametrize(
    ("objective", "config", "spec", "told"),
    [
        (supervised, supervised.Config(), FINDINGS, labels),
        (semi_masked, semi_masked.Config(masked_weight=0.3), FINDINGS, labels),
        (segmentation, segmentation.Config(dice_weight=0.7), STRUCTURES, masks),
        (mae, mae.Config(mask_ratio=0.5, foreground=0.1), FINDINGS, air),
    ],
    ids=["supervised", "semi_masked", "segmentation", "mae"],
)
def test_a_sweep_gives_the_same_in_batches_of_any_size(rng, mite, batch_of, objective, config, spec, told):
    """Else the best checkpoint is chosen by where the scans without labels, structures or foreground lie."""
    made = objective.build(config, mite(PATCH, width=4), spec)
    params, memory = jax.jit(made.init, static_argnums=1)(jax.random.key(0), spec)
    noise = jax.random.split(jax.random.key(1), len(jax.tree.leaves(params)))
    params = jax.tree.map(  # heads start at zero, where all scans fare alike
        lambda x, key: x + 0.3 * jax.random.normal(key, x.shape),
        params,
        jax.tree.unflatten(jax.tree.structure(params), list(noise)),
    )
    image = rng.normal(size=(SCANS, *SIZE, 1)).astype(np.float32)
    whole = batch_of(**{"image": image, **told(rng)})

    @jax.jit
    def found(batch):
        _, (metrics, _) = made.loss(params, memory, batch, jax.random.key(0), train=False)
        return tallies.by_scans(metrics, batch["main"]["weight"].sum())

    def at(rows):
        return jax.tree.map(lambda x: x[rows], whole)

    def swept(size):
        each = [found(at(rows)) for rows in np.arange(SCANS).reshape(-1, size)]
        return tallies.values(jax.tree.map(lambda *parts: np.sum(parts, axis=0), *each)), each

    truth = tallies.values(found(whole))
    for size in (1, 2, 4):
        values, each = swept(size)
        for name, value in truth.items():
            assert float(values[name]) == pytest.approx(float(value), rel=1e-4), (name, size)
    naive = {name: np.mean([float(tallies.values(one)[name]) for one in each]) for name in truth}
    assert any(abs(naive[name] - float(truth[name])) > 0.01 for name in truth), "the case tests nothing"


def test_of_nothing_nothing_is_told():
    """A set without a label has no accuracy, and one without a structure no Dice, rather than 0 and 1."""
    none = np.zeros(())
    assert tallies.Mean(none, none).empty and tallies.Mean(none, none).value == 0
    assert not tallies.Mean(none, np.ones(())).empty
    wide = np.zeros(2)
    dice = segmentation.Dice(wide, np.ones(2), wide)
    assert dice.empty and dice.value == 1
    found = segmentation.Dice(np.array([2.0, 0]), np.array([3.0, 5]), np.array([5.0, 0]))
    assert not found.empty and found.value == 0.5
    entropy = tallies.Mean(np.array(6.0), np.array(2.0))
    both = tallies.Sum((entropy, dice), (1.0, -0.5), plus=0.5)
    assert both.value == 3 and not both.empty
    assert tallies.Sum((tallies.Mean(none, none), dice), (1.0, 1.0)).empty


def test_a_plain_number_is_a_mean_over_scans():
    one, other = (tallies.by_scans({"x": jnp.float32(x)}, n) for x, n in ((2, 3), (4, 1)))
    assert float(tallies.values(jax.tree.map(jnp.add, one, other))["x"]) == 2.5
    assert tallies.values({"x": 3.0, "y": tallies.Mean(1.0, 4.0)}) == {"x": 3.0, "y": 0.25}
