"""From logits to a task's numbers: what is computed, what is refused, and what the notes own up to."""

import json

import numpy as np
import pytest
from scipy.special import softmax
from sklearn import metrics as reference

from vitmed.errors import InputError
from vitmed.evaluate.score import score


def exclusive(rng, n=120, classes=3):
    """Logits (n, classes), labels (n, 1), weights and patients of 2 scans each."""
    label = rng.integers(0, classes, n)
    logits = rng.standard_normal((n, classes))
    logits[np.arange(n), label] += 1
    return (
        logits,
        label[:, None].astype(np.float32),
        np.ones((n, 1), np.float32),
        [f"p{i // 2}" for i in range(n)],
    )


def columns(rng, n=120, k=3):
    label = (rng.random((n, k)) < 0.4).astype(np.float32)
    return (
        rng.standard_normal((n, k)) + label,
        label,
        np.ones((n, k), np.float32),
        [f"p{i // 2}" for i in range(n)],
    )


def test_two_classes(rng):
    """Otherwise the commonest task's numbers are wrong, or decided at another threshold than validation's."""
    logits, label, weight, patients = exclusive(rng, classes=2)
    val = exclusive(rng, classes=2)
    found = score("multiclass", ["clear", "lesion"], logits, label, weight, patients, val[:3])
    truth, yes = label[:, 0], softmax(logits, 1)[:, 1]
    said = yes >= found["threshold"]["lesion"]
    value = {name: number["value"] for name, number in found["metrics"].items()}
    assert value["auroc"] == pytest.approx(reference.roc_auc_score(truth, yes))
    assert value["average_precision"] == pytest.approx(reference.average_precision_score(truth, yes))
    assert value["accuracy"] == pytest.approx(reference.accuracy_score(truth, said))
    assert value["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, said))
    assert value["f1"] == pytest.approx(reference.f1_score(truth, said))
    assert value["sensitivity"] == pytest.approx(reference.recall_score(truth, said))
    assert value["specificity"] == pytest.approx(reference.recall_score(truth, said, pos_label=0))
    fpr, tpr, _ = reference.roc_curve(truth, yes, drop_intermediate=False)
    assert value["sensitivity_at_90_specificity"] == pytest.approx(tpr[fpr <= 0.1 + 1e-9].max())
    assert found["confusion"] == {
        "classes": ["clear", "lesion"],
        "counts": reference.confusion_matrix(truth, said).tolist(),
    }
    assert (found["examples"], found["patients"], found["threshold_from"]) == (120, 60, "val")
    assert found["bootstrap"] == {"unit": "patient", "units": 60, "seed": 0, "resamples": 2000, "level": 0.95}
    for number in found["metrics"].values():
        assert 0 <= number["low"] <= number["value"] <= number["high"] <= 1
    strict = yes >= found["threshold_90_specificity"]["lesion"]
    assert value["sensitivity_at_validation_90_specificity"] == pytest.approx(
        reference.recall_score(truth, strict)
    )
    assert value["specificity_at_validation_90_specificity"] == pytest.approx(
        reference.recall_score(truth, strict, pos_label=0)
    )


def test_each_number_says_which_interval_it_has(rng):
    """Otherwise nobody can tell how a bound was made, or a change of method passes unseen."""
    found = score("multiclass", ["clear", "lesion"], *exclusive(rng, classes=2), resamples=100)
    kinds = {name: number["interval"] for name, number in found["metrics"].items()}
    assert kinds == {
        "auroc": "score",
        "average_precision": "logit",
        "accuracy": "Wilson",
        "balanced_accuracy": "MOVER",
        "f1": "Wilson",
        "sensitivity": "Wilson",
        "specificity": "Wilson",
        "sensitivity_at_90_specificity": "Wilson",
        "ece": "bootstrap",
    }
    assert set(found["intervals"]) == set(kinds.values())
    several = score("multiclass", list("abc"), *exclusive(rng), resamples=100)["metrics"]
    assert several["auroc"]["interval"] == several["f1"]["interval"] == "MOVER"
    value = score("regression", ["x", "y"], *columns(rng, k=2), resamples=100)["metrics"]
    assert value["mae"]["interval"] == value["mae/x"]["interval"] == "percentile"


def test_balanced_accuracy_of_a_found_class_is_as_unsure_as_its_few_patients(rng):
    """Otherwise five of five positives found add nothing to the interval of balanced accuracy."""
    label = (np.arange(105) < 5).astype(np.float32)[:, None]
    logits = np.stack([np.zeros(105), 2 * label[:, 0] - 1], axis=1)
    logits[5:15, 1] = 1  # ten false alarms
    found = score("multiclass", ["a", "b"], logits, label, np.ones((105, 1)), None)["metrics"]
    assert found["sensitivity"]["value"] == 1 and found["specificity"]["value"] == pytest.approx(0.9)
    sensitivity_arm = 1 - found["sensitivity"]["low"]
    balanced = found["balanced_accuracy"]
    assert balanced["value"] - balanced["low"] > sensitivity_arm / 2 > 0.15


def test_thresholds_come_from_validation_alone(rng):
    """Otherwise the decision metrics are tuned on the very scans they are reported for."""
    logits, label, weight, patients = exclusive(rng, classes=2)
    val = exclusive(rng, classes=2)[:3]
    found = score("multiclass", ["a", "b"], logits, label, weight, patients, val)
    other = score("multiclass", ["a", "b"], logits, 1 - label, weight, patients, val)
    assert found["threshold"] == other["threshold"]
    assert found["threshold_90_specificity"] == other["threshold_90_specificity"]


@pytest.mark.parametrize("val", ["absent", "of one class"])
def test_without_both_classes_on_validation_the_threshold_is_a_half_and_said(rng, val):
    """Otherwise a threshold appears from nowhere."""
    logits, label, weight, patients = exclusive(rng, classes=2)
    given = None if val == "absent" else (logits[:5], np.zeros((5, 1)), np.ones((5, 1)))
    found = score("multiclass", ["a", "b"], logits, label, weight, patients, given)
    assert found["threshold"] == {"b": 0.5} and found["threshold_from"] == "default"
    assert any("validation" in note and "0.5" in note for note in found["notes"])
    assert "sensitivity_at_validation_90_specificity" not in found["metrics"]


def test_several_classes(rng):
    """Otherwise multi-class numbers are not scikit-learn's macro ones."""
    logits, label, weight, patients = exclusive(rng, classes=4)
    found = score("multiclass", list("abcd"), logits, label, weight, patients)
    truth, p = label[:, 0], softmax(logits, 1)
    value = {name: number["value"] for name, number in found["metrics"].items()}
    assert value["auroc"] == pytest.approx(reference.roc_auc_score(truth, p, multi_class="ovr"))
    hot = np.eye(4)[truth.astype(int)]
    assert value["average_precision"] == pytest.approx(
        reference.average_precision_score(hot, p, average="macro")
    )
    assert value["accuracy"] == pytest.approx(reference.accuracy_score(truth, p.argmax(1)))
    assert value["balanced_accuracy"] == pytest.approx(reference.balanced_accuracy_score(truth, p.argmax(1)))
    assert value["f1"] == pytest.approx(reference.f1_score(truth, p.argmax(1), average="macro"))
    assert value["auroc/c"] == pytest.approx(reference.roc_auc_score(truth == 2, p[:, 2]))
    assert found["threshold"] is None and np.sum(found["confusion"]["counts"]) == 120


def test_a_class_that_is_absent_is_named(rng):
    """Otherwise a mean over three of four classes passes for a mean over four."""
    logits, label, weight, patients = exclusive(rng, classes=4)
    keep = label[:, 0] != 3
    kept = [p for p, k in zip(patients, keep, strict=True) if k]
    found = score("multiclass", list("abcd"), logits[keep], label[keep], weight[keep], kept)
    assert any("d (no example)" in note for note in found["notes"])
    assert "auroc/d" not in found["metrics"] and found["metrics"]["auroc"]["value"] is not None


def test_several_labels_with_missing_ones(rng):
    """Otherwise a missing label counts as a negative, as it does in much published code."""
    logits, label, weight, patients = columns(rng)
    weight[:40, 1] = 0
    label[:40, 1] = np.nan  # must never be read
    found = score(
        "multilabel", ["edema", "mass", "nodule"], logits, label, weight, patients, (logits, label, weight)
    )
    aurocs = [reference.roc_auc_score(label[w > 0, k], logits[w > 0, k]) for k, w in enumerate(weight.T)]
    assert found["metrics"]["auroc"]["value"] == pytest.approx(np.mean(aurocs))
    assert found["metrics"]["auroc/mass"]["value"] == pytest.approx(aurocs[1])
    assert np.sum(found["confusion"]["columns"]["mass"]) == 80
    assert set(found["threshold"]) == {"edema", "mass", "nodule"}


def test_a_column_of_one_class_is_not_computable_and_said(rng):
    """Otherwise a failed column drops out of the mean and nobody knows."""
    logits, label, weight, patients = columns(rng)
    label[:, 1] = 0
    found = score("multilabel", ["edema", "mass", "nodule"], logits, label, weight, patients)
    assert any("mass (all negative)" in note and "others" in note for note in found["notes"])
    aurocs = [reference.roc_auc_score(label[:, k], logits[:, k]) for k in (0, 2)]
    assert found["metrics"]["auroc"]["value"] == pytest.approx(np.mean(aurocs))


def test_a_split_of_one_class_has_no_auroc(rng):
    """Otherwise a number, or a crash, stands where there is nothing to rank. JSON knows no nan."""
    logits, _, weight, patients = exclusive(rng, classes=2)
    found = score("multiclass", ["a", "b"], logits, np.zeros((120, 1)), weight, patients)
    assert found["metrics"]["auroc"] == {"value": None, "low": None, "high": None, "interval": None}
    assert found["metrics"]["accuracy"]["value"] is not None
    assert any("not computable" in note for note in found["notes"])
    json.dumps(found, allow_nan=False)


def test_regression(rng):
    """Otherwise errors are of the wrong column, or one constant column spoils every mean."""
    label = rng.standard_normal((90, 2)).astype(np.float32)
    value = label + 0.5 * rng.standard_normal((90, 2))
    found = score("regression", ["volume", "age"], value, label, np.ones_like(label), None)
    for k, name in enumerate(("volume", "age")):
        assert found["metrics"][f"mae/{name}"]["value"] == pytest.approx(np.mean(abs(value - label)[:, k]))
    assert found["metrics"]["r2"]["value"] == pytest.approx(reference.r2_score(label, value))
    low, high = (found["metrics"]["pearson"][side] for side in ("low", "high"))
    assert low < found["metrics"]["pearson"]["value"] < high
    label[:, 1] = 1
    found = score("regression", ["volume", "age"], value, label, np.ones_like(label), None)
    assert found["metrics"]["r2"]["value"] == pytest.approx(reference.r2_score(label[:, 0], value[:, 0]))
    assert any("age" in note for note in found["notes"])


def test_unknown_patients_are_said(rng):
    """Otherwise an interval that is too narrow looks like any other."""
    logits, label, weight, patients = exclusive(rng)
    found = score("multiclass", list("abc"), logits, label, weight, None)
    assert found["patients"] is None and found["bootstrap"]["unit"] == "image"
    assert any("probably too narrow" in note for note in found["notes"])
    some = score("multiclass", list("abc"), logits, label, weight, ["", *patients[1:]])
    assert some["patients"] == 61 and any("1 example is unknown" in note for note in some["notes"])


@pytest.mark.parametrize("task", ["regression", "multilabel"])
def test_a_column_of_one_patient_has_no_interval_without_width(rng, task):
    """Otherwise an error seen in one patient is sure to the last digit, and so is a mean of which it is a part."""
    logits, label, weight, patients = columns(rng, n=20)
    weight[2:, 0], label[:2, 0] = 0, [0, 1]
    found = score(task, list("abc"), logits, label, weight, patients, resamples=50)["metrics"]
    for name in ("mae", "rmse", "r2", "pearson") if task == "regression" else ("ece",):
        assert found[f"{name}/a"]["value"] is not None and found[f"{name}/a"]["low"] is None
        assert found[name]["value"] is not None and found[name]["low"] is None
        assert found[f"{name}/b"]["low"] < found[f"{name}/b"]["high"]


@pytest.mark.parametrize("n", [1, 2, 4, 5])
def test_few_patients_are_said(rng, n):
    """Otherwise an interval over three patients reads as one over three hundred."""
    logits, label, weight, _ = columns(rng, n=20)
    given = logits, label, weight, [f"p{i % n}" for i in range(20)]
    result = score("regression", list("abc"), *given, resamples=20)
    said = [note for note in result["notes"] if note.startswith("only")]
    many = f"only {n} patients: intervals may be too narrow"
    assert said == {1: ["only one patient: there are no intervals"], 5: []}.get(n, [many])
    assert (result["metrics"]["mae"]["low"] is None) == (n == 1)


def test_the_seed_decides_the_intervals(rng):
    """Otherwise a reported interval cannot be made again."""
    data = exclusive(rng, classes=2)
    first, same, other = (score("multiclass", ["a", "b"], *data, seed=s) for s in (0, 0, 1))
    assert first == same and first["metrics"]["auroc"] != other["metrics"]["auroc"]
    assert first["metrics"]["auroc"]["value"] == other["metrics"]["auroc"]["value"]


def test_unlabelled_examples_are_left_out_and_counted(rng):
    """Otherwise an empty label is scored as class 0."""
    logits, label, weight, patients = exclusive(rng, classes=2)
    weight[:20] = 0
    label[:20] = np.nan
    found = score("multiclass", ["a", "b"], logits, label, weight, patients)
    rest = score("multiclass", ["a", "b"], logits[20:], label[20:], weight[20:], patients[20:])
    assert found["metrics"] == rest["metrics"] and found["examples"] == 100
    assert any("20 of 120" in note for note in found["notes"])


def test_what_cannot_be_scored_is_refused(rng):
    """Otherwise a run that diverged, or a split without labels, gets a row of numbers."""
    logits, label, weight, patients = exclusive(rng, classes=2)
    with pytest.raises(InputError, match="no example"):
        score("multiclass", ["a", "b"], logits, label, 0 * weight, patients)
    logits[3, 0] = np.nan
    with pytest.raises(InputError, match="1 of 120 examples are not finite"):
        score("multiclass", ["a", "b"], logits, label, weight, patients)
