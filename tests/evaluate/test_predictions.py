"""predictions.csv: what is written is what is read back."""

import dataclasses

import numpy as np
import pytest

from vitmed.errors import InputError
from vitmed.evaluate.predictions import Predictions, read, write


def some(task, rng):
    n, classes = 6, ["normal", 'a, "quoted" finding']
    label = rng.integers(0, 2, (n, 1 if task == "multiclass" else 2)).astype(np.float64)
    weight = np.ones(label.shape, np.float32)
    weight[2, 0] = label[2, 0] = 0
    score = rng.random((n, 2))
    return Predictions(
        task, classes, [f"i{k}" for k in range(n)], ["p0", "", *"bcde"], None, score, label, weight
    )


@pytest.mark.parametrize("task", ["multiclass", "multilabel", "regression"])
def test_what_is_read_is_what_was_written(task, rng, tmp_path):
    """Otherwise a comparison of two runs is of other numbers than the runs gave; rounding would make ties."""
    written = some(task, rng)
    write(tmp_path / "predictions.csv", written)
    found = read(tmp_path / "predictions.csv")
    for field in dataclasses.fields(Predictions):
        mine, back = getattr(written, field.name), getattr(found, field.name)
        assert np.array_equal(mine, back) if isinstance(mine, np.ndarray) else mine == back, field.name


def test_columns_are_the_ones_documented(rng, tmp_path):
    """Otherwise spreadsheets and scripts of users break."""
    write(tmp_path / "p.csv", some("multiclass", rng))
    header = (tmp_path / "p.csv").read_text().splitlines()[0]
    assert header == 'id,patient,site,label,probability:normal,"probability:a, ""quoted"" finding"'


@pytest.mark.parametrize("text", [None, "", "a,b\n1,2\n", "id,patient,site,label,probability:x\ni,,,y,0.5\n"])
def test_another_file_is_refused(text, tmp_path):
    """Otherwise a wrong file ends in a traceback, or is read as something."""
    file = tmp_path / "p.csv"
    if text is not None:
        file.write_text(text)
    with pytest.raises(InputError, match="p.csv"):
        read(file)


def test_labels_keep_all_their_digits(rng, tmp_path):
    """Otherwise a volume of 1,234,567 mm3 is 1,234,570 in every table that is made of the file."""
    label = np.array([[1234567.0], [0.1], [-2.5e-7]], np.float32)
    ones, score = np.ones((3, 1), np.float32), rng.random((3, 1))
    write(
        tmp_path / "p.csv",
        Predictions("regression", ["volume"], list("abc"), None, None, score, label, ones),
    )
    assert np.array_equal(read(tmp_path / "p.csv").label.astype(np.float32), label)
    assert (tmp_path / "p.csv").read_text().splitlines()[2].startswith("b,,,0.1,")
