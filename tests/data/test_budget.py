import numpy as np
import pytest

from vitmed.data.budget import fold, labelled
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError


@pytest.fixture
def one_column(write_labels, tmp_path):
    """200 images: 180 of class 0, 15 of class 1, 5 of class 2."""
    labels = np.repeat([0, 1, 2], [180, 15, 5])
    return Dataset.open(write_labels(tmp_path / "set", labels, classes=("a", "b", "c")))


def classes(dataset, indices):
    return dataset.labels("train")[0][indices, 0].astype(int)


def test_smaller_budgets_lie_inside_larger_ones(one_column):
    # Else a curve over budgets would compare different draws.
    budgets = [3, 4, 7, 0.05, 0.1, 50, 0.5, 1.0]
    drawn = [labelled(one_column, "train", budget, seed=1).tolist() for budget in budgets]
    assert [len(d) for d in drawn] == [3, 4, 7, 10, 20, 50, 100, 200]
    assert all(set(small) <= set(large) for small, large in zip(drawn, drawn[1:], strict=False))
    assert all(d == sorted(set(d)) for d in drawn)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_every_budget_is_stratified(one_column, seed):
    # A small draw without a class cannot be learned from; one out of proportion measures luck.
    for budget in range(3, 201):
        counts = np.bincount(classes(one_column, labelled(one_column, "train", budget, seed)), minlength=3)
        expected = budget * np.array([180, 15, 5]) / 200
        assert counts.sum() == budget and counts.min() >= 1
        assert (np.abs(counts - expected) <= 2).all()


def test_draws_differ_by_seed_and_repeat(one_column):
    # Draws that were the same would make the spread over draws zero.
    first, again, other = (labelled(one_column, "train", 20, seed).tolist() for seed in (0, 0, 1))
    assert first == again != other


def test_each_example_is_as_likely_as_another_of_its_class(one_column):
    # A draw that favours some images, say those first by id, would bias the curve.
    counts = sum(np.isin(np.arange(200), labelled(one_column, "train", 0.25, seed)) for seed in range(300))
    freedom = 179
    chi2 = ((counts[:180] - 75) ** 2 / (300 * 0.25 * 0.75)).sum()
    assert abs(chi2 - freedom) < 5 * np.sqrt(2 * freedom)


def test_patients_are_labelled_whole(write_labels, tmp_path):
    # Scans of one patient are not independent labels; a budget must not be exceeded for them either.
    patients = [f"p{i // 4:02d}" for i in range(120)]
    labels = [float(i // 4 % 3 == 0) for i in range(120)]
    dataset = Dataset.open(write_labels(tmp_path / "set", labels, patients))
    for budget in (8, 9, 30, 60, 0.5):
        chosen = labelled(dataset, "train", budget, seed=0)
        whole = np.bincount(chosen // 4, minlength=30)
        assert set(whole) <= {0, 4} and len(chosen) == (60 if budget == 0.5 else budget // 4 * 4)
        assert len(set(classes(dataset, chosen))) == 2
    with pytest.raises(InputError, match="config.data.labels is 7 .*too few to show 2 classes.*at least 8"):
        labelled(dataset, "train", 7, seed=0)


def test_findings_are_shown_present_and_absent(write_labels, tmp_path, rng):
    # Each column of a multi-label set needs a case of both, and missing labels are worth nothing.
    labels = (rng.random((300, 4)) < [0.5, 0.3, 0.1, 0.02]).astype(float)
    labels[:2, 3] = 1
    labels[rng.random((300, 4)) < 0.3] = np.nan
    labels[250:] = np.nan
    labels[0] = [0, 0, 0, 1]
    dataset = Dataset.open(write_labels(tmp_path / "set", labels, task="multilabel", classes="abcd"))
    for seed in range(5):
        chosen = labelled(dataset, "train", 12, seed)
        assert len(chosen) == 12 and chosen.max() < 250
        shown = labels[chosen]
        assert ((shown == 1).any(axis=0) & (shown == 0).any(axis=0)).all()
    everything = labelled(dataset, "train", 1.0, 0)
    assert everything.tolist() == np.flatnonzero(np.isfinite(labels).any(axis=1)).tolist()
    assert labelled(dataset, "train", None, 0).tolist() == everything.tolist()
    with pytest.raises(InputError, match="every finding, present and absent"):
        labelled(dataset, "train", 1, 0)


def test_rare_combinations_are_not_left_to_the_end(write_labels, tmp_path):
    # Strata of one unit must enter small budgets as often as any, or a tenth of a set would hold common
    # cases only.
    common, rare = np.zeros((100, 7)), np.array([[int(b) for b in f"{i:07b}"] for i in range(1, 101)])
    dataset = Dataset.open(
        write_labels(tmp_path / "set", np.concatenate([common, rare]), task="multilabel", classes="abcdefg")
    )
    share = [(labelled(dataset, "train", 0.25, seed) >= 100).mean() for seed in range(20)]
    assert 0.45 < np.mean(share) < 0.6


def test_regression_covers_the_range(write_labels, tmp_path, rng):
    # A draw from one end of the range would test extrapolation.
    values = rng.permutation(100).astype(float)
    dataset = Dataset.open(write_labels(tmp_path / "set", values, task="regression", classes=("age",)))
    for seed in range(3):
        chosen = values[labelled(dataset, "train", 30, seed)]
        assert (np.abs(np.bincount((chosen // 10).astype(int), minlength=10) - 3) <= 1).all()
    assert len(labelled(dataset, "train", 1, 0)) == 1


@pytest.mark.parametrize(
    "budget, message",
    [
        (
            2,
            "config.data.labels is 2 .*too few to show 3 classes.*at least 3 examples .of a study in config.study.budgets",
        ),
        (0.01, r"config.data.labels is 0.01 \(2 of 200 examples\), too few"),
        (201, "config.data.labels is 201; .*has 200 labelled"),
        (0, "config.data.labels is 0"),
        (50.0, "config.data.labels is 50.0; a float is a fraction"),
    ],
)
def test_impossible_budgets_are_refused(one_column, budget, message):
    with pytest.raises(InputError, match=message):
        labelled(one_column, "train", budget, seed=0)


def test_unlabelled_sets_are_refused(write_labels, tmp_path):
    dataset = Dataset.open(write_labels(tmp_path / "set", [np.nan] * 4, task=None, classes=()))
    with pytest.raises(InputError, match="no labels.*--labels"):
        labelled(dataset, "train", 0.5, seed=0)
    few = write_labels(tmp_path / "few", [0.5] * 4, ["p"] * 4, task="regression", classes=("x",))
    with pytest.raises(InputError, match="4 scans of the first patient"):
        labelled(Dataset.open(few), "train", 2, seed=0)


def test_draws_are_what_they_always_were(one_column, write_labels, tmp_path):
    # Else a study that goes on labels other scans than those its first cells learned from.
    assert labelled(one_column, "train", 7, seed=1).tolist() == [0, 50, 110, 117, 123, 184, 198]
    patients = [f"p{i // 4:02d}" for i in range(120)]
    labels = [float(i // 4 % 3 == 0) for i in range(120)]
    dataset = Dataset.open(write_labels(tmp_path / "patients", labels, patients))
    drawn = labelled(dataset, "train", 0.3, seed=0)
    assert len(drawn) == 36 and sorted(set(drawn // 4)) == [3, 5, 11, 14, 15, 16, 17, 27, 29]


def test_what_is_left_out_is_not_drawn_in_place_of_what_is_learned_from(one_column):
    # Else a budget pays for labels of copies that nothing learns from, and a class may be gone with them.
    out = [*range(0, 150), *range(180, 190), *range(195, 199)]  # 30, 5 and 1 of the classes remain
    left = np.setdiff1d(np.arange(200), out)
    for budget in (3, 12, 1.0):
        chosen = labelled(one_column, "train", budget, seed=0, left_out=out)
        assert len(chosen) == (budget if budget != 1.0 else len(left)) and set(chosen) <= set(left)
        assert np.bincount(classes(one_column, chosen), minlength=3).min() == 1
    assert labelled(one_column, "train", 0.5, seed=0, left_out=out).size == 18, (
        "a share of what may be learned"
    )
    assert labelled(one_column, "train", None, seed=0, left_out=out).tolist() == left.tolist()
    with pytest.raises(InputError, match="has 36 labelled examples"):
        labelled(one_column, "train", 37, seed=0, left_out=out)
    with pytest.raises(
        InputError, match="every scan of split 'train' .* with a label is a copy .*data.apart"
    ):
        labelled(one_column, "train", 0.5, seed=0, left_out=np.arange(200))


def test_folds_part_the_budget_by_patient_and_class(write_labels, tmp_path):
    # A patient on both sides flatters; a class missing from a part cannot be judged.
    patients = [f"p{i // 2:02d}" for i in range(120)]
    dataset = Dataset.open(
        write_labels(tmp_path / "set", [float(i // 2 % 5 == 0) for i in range(120)], patients)
    )
    chosen = labelled(dataset, "train", 60, seed=1)
    parts = [fold(dataset, "train", chosen, (k, 3), 1) for k in range(3)]
    assert sorted(np.concatenate(parts).tolist()) == chosen.tolist()
    for part in parts:
        assert set(np.bincount(part // 2, minlength=60)) == {0, 2}
        assert (classes(dataset, part) == 1).sum() == 4 and len(part) == 20
    with pytest.raises(InputError, match="10 folds of the 60 labelled scans .* cannot each show every class"):
        fold(dataset, "train", chosen, (0, 10), 1)


def test_folds_read_no_label_beside_the_budget(one_column, monkeypatch):
    # Else the guard of a budget of 40 knows more than 40 labels.
    chosen = labelled(one_column, "train", 100, seed=0)
    honest = [fold(one_column, "train", chosen, (k, 2), 0).tolist() for k in range(2)]
    values, weight = (x.copy() for x in one_column.labels("train"))
    others = np.setdiff1d(np.arange(200), chosen)
    values[others], weight[others] = 1 - values[others], np.nan
    monkeypatch.setattr(one_column, "labels", lambda split: (values, weight))
    assert [fold(one_column, "train", chosen, (k, 2), 0).tolist() for k in range(2)] == honest


def test_folds_of_a_regression_cover_the_range(write_labels, tmp_path, rng):
    dataset = Dataset.open(
        write_labels(
            tmp_path / "set", rng.permutation(100).astype(float), task="regression", classes=("age",)
        )
    )
    chosen = labelled(dataset, "train", 40, 0)
    for k in range(2):
        ages = dataset.labels("train")[0][fold(dataset, "train", chosen, (k, 2), 0), 0]
        assert len(ages) == 20 and (np.bincount((ages // 25).astype(int), minlength=4) >= 3).all()
    with pytest.raises(InputError, match="5 folds of the 4 labelled scans"):
        fold(dataset, "train", labelled(dataset, "train", 4, 0), (0, 5), 0)
