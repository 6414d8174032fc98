"""Segmentations on the page: outlines lie where the masks end, and the table says what the evaluation said."""

import json
import re

import numpy as np
import pytest
from PIL import Image

from vitmed import words
from vitmed.evaluate.evaluate import evaluate
from vitmed.report import page, pictures, planes


def blob(top, left, size=(40, 60), high=16, wide=24, value=1):
    mask = np.zeros(size, np.uint8)
    mask[top : top + high, left : left + wide] = value
    return mask


def is_white(drawn):
    return (drawn == 255).all(axis=-1)


def test_both_outlines_are_seen():
    """Otherwise the true outline hides the predicted one wherever they are one, or a structure has another's colour."""
    scan = Image.fromarray(np.full((160, 240, 3), 40, np.uint8))
    truth, predicted = blob(4, 6), blob(12, 24, value=2)
    drawn = np.asarray(pictures.outlined(scan, truth, predicted))
    white, said = is_white(drawn), (drawn == pictures.colour_of(2)).all(axis=-1)
    assert white[4 * 4 : 20 * 4, 6 * 4].all() and not white[10 * 4, 12 * 4]
    assert said[28 * 4 - 1, 24 * 4 + 8 : 48 * 4].all() and (drawn[150, 230] == 40).all()
    same = np.asarray(pictures.outlined(scan, truth, truth))
    assert is_white(same).any() and (same == pictures.colour_of(1)).all(axis=-1).any()
    unmarked = truth.copy()
    unmarked[30:] = 255
    assert np.array_equal(pictures.outlined(scan, unmarked, predicted), drawn)


def test_outlines_turn_with_the_slices():
    """Otherwise the outline of the left lies on the right side of the picture."""
    volume = np.zeros((40, 40, 40), np.uint8)
    volume[18:36, 4:22, 24:36] = 255
    affine = np.diag([1.0, 1, 1, 1])[[2, 1, 0, 3]].T
    one = np.ones(1, np.float32)
    record = {"id": "a", "image": volume[..., None], "scale": one / 255, "offset": 0 * one, "affine": affine}
    record |= {"spacing": np.ones(3, np.float32), "mask": (volume > 0).astype(np.uint8)}
    for turn in (1, -1):  # stored the other way round along every axis: the same pictures
        turned = {name: record[name][::turn, ::turn, ::turn] for name in ("image", "mask")}
        given = record | turned | {"affine": affine @ np.diag([turn, turn, turn, 1.0])}
        for plane in planes.volume(given, (0, 1), given["mask"])["planes"]:
            drawn = _pixels(plane["src"])
            outline, light = is_white(drawn), drawn[..., 0] > 200
            rows, columns = (np.flatnonzero(light.any(axis)) for axis in (1, 0))
            held = np.flatnonzero(outline.any(1)), np.flatnonzero(outline.any(0))
            assert (held[0].min(), held[0].max()) == (rows.min(), rows.max()), plane["name"]
            assert (held[1].min(), held[1].max()) == (columns.min(), columns.max()), plane["name"]


@pytest.mark.parametrize("name", ["segmenter", "volume_segmenter"])
def test_a_segmentation_has_its_table_and_its_outlines(name, request, tmp_path):
    """Otherwise the page of a segmentation run is a list of numbers that nobody can see the reason of."""
    run = request.getfixturevalue(name)
    found = evaluate(run)
    page.write(tmp_path / "report.html", runs=[run])
    text = (tmp_path / "report.html").read_text()
    body = text[text.index('id="evaluation"') : text.index('id="provenance"')]
    for metric in ("dice/2", "nsd/2", "dice"):
        number = found["metrics"][metric]
        assert words.number(number["value"]) in body and words.interval(number["low"], number["high"]) in body
    unit = "mm" if name == "volume_segmenter" else "px"
    assert f"NSD at 1 {unit}" in body and f"HD95, {unit}" in body
    assert "True and predicted outlines" in body and "predicted 2" in body
    pictured = len(re.findall("mean Dice", body.partition("outlines")[2]))
    assert 2 <= pictured <= 5 and body.count("data:image/png") == (pictured - 1) * (3 if unit == "mm" else 1)
    assert "Worst, mean Dice" in body and "Best, mean Dice" in body
    assert not re.search(r"https?://", text)
    # Of a dataset that is no longer the same, scans are not shown beside numbers that are not theirs.
    file = run / "dataset.json"
    sheet = file.read_text()
    try:
        file.write_text(json.dumps(json.loads(sheet) | {"content_hash": "00" * 32}))
        page.write(tmp_path / "other.html", runs=[run])
    finally:
        file.write_text(sheet)
    other = (tmp_path / "other.html").read_text()
    assert "True and predicted outlines" not in other
    assert "The dataset has changed since this evaluation, so no outlines are shown." in other


def test_a_page_says_why_outlines_are_not_there(segmenter, tmp_path):
    """Otherwise they vanish without a word, and one looks for what one has done wrong."""
    evaluate(segmenter)
    for change, reason in [
        ({"checkpoint": 10**6}, "The run no longer keeps what was evaluated"),
        ({"dataset": str(tmp_path / "gone")}, "The dataset is no longer where it was"),
        ({"dataset": str(tmp_path)}, "Outlines are shown where the page is told of this dataset too"),
    ]:
        (file,) = segmenter.glob("evaluations/*/metrics.json")
        told = file.read_text()
        try:
            file.write_text(json.dumps(json.loads(told) | change))
            page.write(tmp_path / "report.html", runs=[segmenter])
        finally:
            file.write_text(told)
        text = (tmp_path / "report.html").read_text()
        assert reason in text and "True and predicted outlines" not in text


def _pixels(src):
    import base64
    import io

    return np.asarray(Image.open(io.BytesIO(base64.b64decode(src.split(",")[1]))).convert("RGB"))
