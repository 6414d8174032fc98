"""Which comparisons are made, and the one sentence that each comes to."""

import pytest

from vitmed.study import compared
from vitmed.study.compared import Pair
from vitmed.study.plan import plan


def found(low, high):
    return {"value": (low + high) / 2, "low": low, "high": high}


def said(low=0.031, high=0.09, **changes):
    """The sentence of a comparison whose interval is this, without the spaces that no line break parts."""
    c = {
        **{"metric": "auroc", "first_label": "Pretrained ViT", "second_label": "ViT from scratch"},
        **{"first_budget": 0.01, "second_budget": 0.01, "first_labels": 47, "second_labels": 47},
        **{
            "draws": [3, 3],
            "folds": 1,
            "examples": 624,
            "patients": 50,
            "margin": 0.0,
            "higher_is_better": True,
        },
        **{"comparisons": 1, "holds": None, "difference": 0.06 if low is None else (low + high) / 2},
        **{"low": low, "high": high},
        **changes,
    }
    value = {"value": c["difference"], "low": low, "high": high}
    c["verdict"] = compared.verdict(value, c["higher_is_better"], c["margin"], min(c["draws"]) * c["folds"])
    c["real"] = c["verdict"] in ("better", "worse")
    return compared.sentence(c).replace("\N{NO-BREAK SPACE}", " ").replace("\N{MINUS SIGN}", "-")


def test_a_real_difference_says_how_large_and_how_sure():
    """Otherwise a reader has to work out which arm won, or on how much that rests."""
    assert said() == (
        "Pretrained ViT is better than ViT from scratch with 1% of the labels (47 scans) by 0.060 AUROC [0.031, 0.090] "
        "(3 draws, 624 images of 50 patients)."
    )
    assert (
        "is worse than ViT from scratch with 1% of the labels (47 scans) by 0.060 AUROC [0.031, 0.090]"
        in said(-0.09, -0.031)
    )
    assert "by image, since patients are not known, so it is probably too narrow" in said(patients=None)
    assert "cannot be compared in AUROC" in said(difference=None)
    assert "3 draws in each of 5 folds" in said(folds=5)


def test_of_an_error_the_smaller_is_better():
    """Otherwise the arm with the larger error wins."""
    text = said(-0.09, -0.031, metric="rmse", higher_is_better=False)
    assert "is better than" in text and "by 0.060 root mean squared error [0.031, 0.090]" in text
    assert "is worse than" in said(0.031, 0.09, metric="rmse", higher_is_better=False)


def test_not_settled_is_not_equal():
    """Otherwise a difference that chance explains is a finding, or its absence is."""
    text = said(-0.02, 0.04)
    assert text.startswith("Whether Pretrained ViT is better than ViT from scratch with 1%")
    assert "is not settled: the difference is +0.010 AUROC [-0.020, +0.040]" in text
    assert "a loss of more than the margin of 0.010 cannot be excluded" in said(-0.02, 0.04, margin=0.01)


def test_not_worse_takes_a_margin():
    """Otherwise "not significant" passes for as good."""
    text = said(-0.008, 0.004, margin=0.01)
    assert "is not worse than" in text and "by more than the margin of 0.010 (non-inferior)" in text
    assert "[-0.008, +0.004]" in text
    assert "not settled" in said(-0.008, 0.004), "without a margin nothing is claimed"
    assert "though by no more than the margin of 0.010 (non-inferior)" in said(-0.008, -0.002, margin=0.01)
    assert "is better than" in said(0.002, 0.008, margin=0.01)
    assert "is not worse than" in said(-0.004, 0.008, margin=0.01, metric="rmse", higher_is_better=False)
    assert "not settled" in said(-0.004, 0.012, margin=0.01, metric="rmse", higher_is_better=False)


def test_one_draw_shows_nothing():
    """Otherwise the luck of one draw is a finding."""
    for margin in (0.0, 0.5):
        text = said(draws=[1, 3], margin=margin)
        assert "not settled" in text and "one draw does not tell what another would give" in text
    assert "is better than" in said(draws=[1, 1], folds=5), "five folds are five trainings"


def test_one_patient_shows_nothing():
    """Otherwise draws that agree on one patient are a finding."""
    alone = dict(low=None, high=None, patients=1)
    text = said(**alone)
    assert text.startswith("Whether Pretrained ViT is better than ViT from scratch with 1% of the labels")
    assert (
        "+0.060 AUROC [\N{EN DASH}, \N{EN DASH}], and one patient does not tell what others would give"
        in text
    )
    assert "not settled" in said(**alone, margin=0.5) and "one draw does" in said(**alone, draws=[1, 1])


def test_two_budgets_are_both_named():
    """Otherwise a tenth of the labels is read as all of them."""
    assert said(second_budget=1.0, second_labels=4708).startswith(
        "Pretrained ViT with 1% of the labels (47 scans) is better than ViT from scratch with all labels (4,708 scans) by"
    )


def made(chance, beyond=None, verdict="better"):
    return {
        **{
            "metric": "auroc",
            "first_label": "A",
            "second_label": "B",
            "first_budget": 1.0,
            "second_budget": 1.0,
        },
        **{"first_labels": 9, "second_labels": 9, "draws": [3, 3], "folds": 1, "examples": 9, "patients": 9},
        **{"higher_is_better": True, "margin": 0.01, "difference": 0.1, "low": 0.0, "high": 0.2},
        **{"verdict": verdict, "real": verdict in ("better", "worse"), "chance": chance},
        "chance_beyond_margin": beyond,
    }


def test_several_comparisons_are_corrected():
    """Otherwise of twenty comparisons one is real by chance."""
    first, second, third = compared.conclude([made(0.001), made(0.03), made(0.5, 0.01, verdict="not worse")])
    assert "after Holm's correction for 3 comparisons it holds" in first["sentence"]
    assert "after Holm's correction for 3 comparisons it is not settled" in second["sentence"]
    assert second["chance_holm"] == pytest.approx(0.06)
    assert third["holds"] is True, "its own question is the margin"
    (alone,) = compared.conclude([made(0.03)])
    assert "Holm" not in alone["sentence"]


def test_what_rests_on_one_training_is_no_evidence_among_others(config, tmp_path):
    """Otherwise it has the smallest p-value, without the luck of training, and the others are corrected for one fewer."""
    config.study.margin = 0.01
    planned = plan(config, tmp_path)

    def compared_by(error, draws, folds=1):
        rows = {
            (budget, arm): {"arm": arm, "label": arm, "budget": budget, "labels": 9, "draws": count}
            for budget, arm, count in ((0.1, "pretrained", 5), (1.0, "scratch", draws))
        }
        given = {"errors": [(error, 9.0)], "examples": 9, "patients": 9, **found(0.01, 0.19)}
        return compared.compare(planned, Pair("pretrained", 0.1, "scratch", 1.0), "auroc", given, folds, rows)

    first, second, alone = compared.conclude(
        [compared_by(0.03, 5), compared_by(0.035, 5), compared_by(0.001, 1)]
    )
    assert alone["chance"] is alone["chance_beyond_margin"] is alone["chance_holm"] is alone["holds"] is None
    assert [c["chance_holm"] for c in (first, second)] == pytest.approx(
        [3 * first["chance"], 2 * second["chance"]]
    )
    assert compared_by(0.001, 1, folds=3)["chance"] < 1e-6, "three folds are three trainings"


def test_which_comparisons_are_made(config, tmp_path):
    """Otherwise the pretrained arm meets the weaker baseline, or itself."""
    planned = plan(config, tmp_path)
    assert compared.pairs(planned, {})[:2] == [
        Pair("pretrained", 0.1, "resnet", 0.1, "resnet"),
        Pair("pretrained", 0.1, "scratch", 0.1, "scratch"),
    ]
    config.study.update({"reference": "", "baselines": ("scratch", "resnet")})
    config.study.compare = (("pretrained@0.1", "best@1.0"), ("best", "scratch"))
    pairs = compared.pairs(plan(config, tmp_path), {0.1: "scratch", 1.0: "resnet"})
    assert pairs == [
        Pair("pretrained", 0.1, "scratch", 0.1, "pretrained"),
        Pair("pretrained", 1.0, "resnet", 1.0, "pretrained"),
        Pair("pretrained", 0.1, "resnet", 1.0),
        Pair("resnet", 1.0, "scratch", 1.0),
    ]
