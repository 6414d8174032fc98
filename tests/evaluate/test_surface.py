"""Surface distances against the reference implementation's values, and against what can be worked out by hand."""

import numpy as np
import pytest
from goldens import make_surface

from vitmed.evaluate import surface
from vitmed.evaluate.masks import dice

GOLDEN = np.load(make_surface.FILE)


def measured(one, other, spacing):
    """What ``make_surface`` keeps of a case, by ours."""
    found = surface.surfaces(one, other, spacing)
    return [
        dice(one, other),
        *(surface.nsd(found, t) for t in make_surface.TOLERANCES),
        *(surface.hausdorff(found, p) for p in make_surface.PERCENTS),
        found.there @ found.area / found.area.sum(),
    ]


@pytest.mark.parametrize("spacing", make_surface.SPACINGS)
def test_elements_have_the_reference_sizes(spacing):
    """Otherwise every share of a surface is weighed by areas of our own making: all 256 (16) kinds of cell."""
    np.testing.assert_allclose(surface.element_sizes(spacing), GOLDEN[f"area/{spacing}"], atol=1e-12)


@pytest.mark.parametrize("case", make_surface.phantoms())
def test_phantoms_have_the_reference_values(case):
    """Otherwise a number of ours cannot stand beside a published one."""
    np.testing.assert_allclose(measured(*make_surface.phantoms()[case]), GOLDEN[case], atol=1e-6)


def test_real_structures_have_the_reference_values(shared_data):
    """Otherwise what holds for phantoms fails on an anatomy: moved, thinned and grown hippocampi."""
    cases = make_surface.hippocampi(shared_data)
    assert len(cases) == 18
    for case, given in cases.items():
        np.testing.assert_allclose(measured(*given), GOLDEN[case], atol=1e-6, err_msg=case)


def test_a_moved_block_by_hand():
    """Otherwise axes and spacings may be mixed up in both places: 2 voxels of 3 mm along the first axis alone."""
    one = np.zeros((12, 8, 8), bool)
    one[2:6, 2:6, 2:6] = True
    found = surface.surfaces(one, np.roll(one, 2, axis=0), (3.0, 0.5, 0.5))
    # The side that faced the motion lies two voxels before the other's nearest one, across or along.
    assert surface.hausdorff(found, 100.0) == pytest.approx(6.0)
    assert surface.nsd(found, 6.0) == 1.0 and 0 < surface.nsd(found, 5.9) < 1
    area = found.area.sum()
    whole = 2 * (2 * 2 + 2 * 12 + 2 * 12)  # of a sharp block, which chamfered edges take from
    assert 0.75 * whole < area < whole
    np.testing.assert_allclose(surface.hausdorff(surface.surfaces(one, one, (3.0, 0.5, 0.5))), 0.0)


def test_both_directions_count():
    """Otherwise a spurious island far away costs nothing, or costs nothing when the sides are exchanged."""
    one = np.zeros((40, 40), bool)
    one[5:15, 5:15] = True
    other = one.copy()
    other[30:34, 30:34] = True
    far = surface.surfaces(one, other, (1.0, 1.0))
    back = surface.surfaces(other, one, (1.0, 1.0))
    assert surface.hausdorff(far) == surface.hausdorff(back) > 15
    assert surface.nsd(far, 1.0) == surface.nsd(back, 1.0) < 0.9
    # An island whose outline is less than 5% of all is what the 95th percentile forgives.
    one[5:25, 5:25] = True
    other = one.copy()
    other[35, 35] = True
    assert surface.hausdorff(surface.surfaces(one, other, (1.0, 1.0))) == 0


def test_empty_masks():
    """Otherwise a structure that was missed altogether counts as found, or ends the evaluation."""
    none, one = np.zeros((6, 6, 6), bool), np.zeros((6, 6, 6), bool)
    one[2:4, 2:4, 2:4] = True
    for a, b in ((none, one), (one, none)):
        found = surface.surfaces(a, b, (1.0, 1.0, 1.0))
        assert surface.nsd(found, 100.0) == 0.0 and dice(a, b) == 0.0
        assert surface.hausdorff(found) == np.inf
    found = surface.surfaces(none, none, (1.0, 1.0, 1.0))
    assert np.isnan([surface.nsd(found, 1.0), surface.hausdorff(found), dice(none, none)]).all()


def test_the_edge_of_the_array_is_an_edge_of_the_mask():
    """Otherwise an organ that leaves the field of view has no surface there, and equal masks differ by padding."""
    one = np.zeros((6, 7), bool)
    one[:3, :4] = True
    other = np.roll(one, 1, axis=0)
    other[0] = False
    bare = surface.surfaces(one, other, (1.0, 2.0))
    padded = surface.surfaces(np.pad(one, 2), np.pad(other, 2), (1.0, 2.0))
    assert bare.area.sum() == pytest.approx(padded.area.sum())
    assert surface.nsd(bare, 1.0) == pytest.approx(surface.nsd(padded, 1.0))
    assert surface.hausdorff(bare) == surface.hausdorff(padded)
