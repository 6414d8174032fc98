"""What a run is asked about: read and prepared as its own dataset was, or refused with both sides named."""

import dataclasses

import numpy as np
import pytest
import short_runs
from PIL import Image
from predicted import result, save, table

from vitmed.apply.predict import predict
from vitmed.cli.main import main
from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.errors import InputError
from vitmed.evaluate.evaluate import evaluate
from vitmed.infer import Model


def test_a_scan_of_16_bits_is_answered_the_same_beside_one_of_8(classifier, tmp_path):
    """Otherwise values are cut to the type of whichever scan comes first in the batch, and answers with them."""
    rng = np.random.Generator(np.random.Philox(key=1))
    for folder in ("alone", "beside"):
        (tmp_path / folder).mkdir()
        Image.fromarray((100 * np.arange(28 * 28).reshape(28, 28) % 65536).astype(np.uint16)).save(
            tmp_path / folder / "b.png"
        )
    Image.fromarray(rng.integers(0, 256, (28, 28)).astype(np.uint8)).save(tmp_path / "beside" / "a.png")
    for folder in ("alone", "beside"):
        predict(classifier, [tmp_path / folder], tmp_path / f"of-{folder}")
    (alone,), beside = table(tmp_path / "of-alone"), table(tmp_path / "of-beside")
    assert alone == next(row for row in beside if row["id"] == "b.png")


def test_files_are_read_as_those_of_the_runs_dataset_were(tmp_path):
    """Otherwise a run of contrasts as channels, or of so many frames, says nothing of the very files it learned from."""
    rng = np.random.Generator(np.random.Philox(key=2))
    (tmp_path / "x").mkdir()
    lines = ["path,label"]
    for k in range(12):
        save(
            tmp_path / "x" / f"p{k}.nii.gz", rng.integers(0, 900, (16, 16, 16, 2)).astype(np.int16), np.eye(4)
        )
        lines.append(f"p{k}.nii.gz,{'ab'[k % 2]}")
    (tmp_path / "labels.csv").write_text("\n".join(lines))
    how = dict(labels=tmp_path / "labels.csv", frames="channels", modality="mr", progress=False)
    ingest(tmp_path / "x", tmp_path / "set", **how)
    keys = {"train.steps": 1, "model.patch_size": "8,8,8", "train.batch_size": 8}
    short_runs.train(short_runs.CLASSIFY, tmp_path / "set", tmp_path / "run", **keys)
    scans = [tmp_path / "x" / "p3.nii.gz"]
    found = predict(tmp_path / "run", scans, tmp_path / "out")
    assert found["examples"] == 1 and found["refused"] == {}
    weights = tmp_path / "run.safetensors"
    assert main(["convert", str(tmp_path / "run"), "--to", "safetensors", "--out", str(weights)]) == 0
    assert main(["convert", str(weights), "--out", str(tmp_path / "again")]) == 0
    predict(tmp_path / "again", scans, tmp_path / "later")
    assert table(tmp_path / "later") == table(tmp_path / "out")


def test_voxels_of_another_size_are_told_of(classifier, tiny_dataset, monkeypatch, tmp_path):
    """Otherwise numbers of scans six times as coarse stand there as if they were of the same kind."""
    opened = Dataset.open(tiny_dataset)
    coarse = opened.datasheet | {"spacing": [6.0, 6.0]}
    own = Model.open(classifier)
    own.recipe = dataclasses.replace(own.recipe, spacing=(2.0, 2.0))
    monkeypatch.setattr(Model, "open", classmethod(lambda cls, *given: own))
    monkeypatch.setattr(Dataset, "open", classmethod(lambda cls, *given, **more: opened))
    monkeypatch.setattr(opened, "datasheet", coarse)
    for notes in (
        evaluate(classifier)["notes"],
        predict(classifier, [tiny_dataset], tmp_path / "out")["notes"],
    ):
        assert any("of 6 x 6 mm, those that the run learned from of 2 x 2 mm" in note for note in notes)


def test_what_does_not_fit_is_refused_and_the_rest_goes_on(
    classifier, tiny_pngs, tiny_niftis, tmp_path, write_dicom
):
    """Otherwise one odd file ends the work, or is answered as if it were one of the run's scans."""
    scans = tmp_path / "scans"
    scans.mkdir()
    for file in sorted(tiny_pngs.glob("*.png"))[:2]:
        (scans / file.name).write_bytes(file.read_bytes())
    (scans / "broken.png").write_bytes(b"\x89PNG no more")
    (scans / "volume.nii.gz").write_bytes(sorted(tiny_niftis.glob("*.nii.gz"))[0].read_bytes())
    Image.fromarray(np.arange(16 * 16 * 3, dtype=np.uint8).reshape(16, 16, 3)).save(scans / "colour.png")
    write_dicom(scans / "us.dcm", "US")
    found = predict(classifier, [scans], tmp_path / "out")
    assert found["examples"] == 2 and sum(found["refused"].values()) == 4
    said = {f["id"]: f"{f['reason']}: {f['detail']}" for f in result(tmp_path / "out")["refused_scans"]}
    assert "takes 2D scans" in said["volume.nii.gz"] and said["volume.nii.gz"].startswith("3D")
    assert "3; the run" in said["colour.png"] and "takes 1" in said["colour.png"]
    assert said["us.dcm"] == "ultrasound, not xray: its header says so"
    assert said["broken.png"]
    forced = predict(classifier, [scans], tmp_path / "forced", force=True)
    assert forced["examples"] == 3 and "ultrasound, not xray" not in forced["refused"]
    marks = {scan["id"]: scan["forced"] for scan in result(tmp_path / "forced")["scans"]}
    assert marks["us.dcm"] == ["modality ultrasound; the run learned from xray"]
    assert marks[sorted(tiny_pngs.glob("*.png"))[0].name] == []
    write_dicom(scans / "ct.dcm", "CT")
    ct = predict(classifier, [scans], tmp_path / "ct", force=True)
    assert ct["refused"]["ct, not xray"] == 1


def test_a_dataset_that_does_not_fit_is_refused(
    classifier, segmenter, tiny_volumes, marked_dataset, tmp_path
):
    """Otherwise masks or scores are made of what the model has never seen the like of."""
    with pytest.raises(InputError, match="modality is xray here and mr there"):
        predict(classifier, [tiny_volumes], tmp_path / "out")
    with pytest.raises(InputError, match="dimension is 2D here and 3D there"):
        predict(classifier, [tiny_volumes], tmp_path / "out", force=True)
    with pytest.raises(InputError, match="size is"):
        predict(classifier, [marked_dataset], tmp_path / "out")
    with pytest.raises(InputError, match="is a dataset; give it alone"):
        predict(segmenter, [tmp_path, marked_dataset], tmp_path / "out")
    with pytest.raises(InputError, match="--split test is of a dataset"):
        predict(segmenter, [tmp_path], tmp_path / "out", split="test")
    assert list(tmp_path.iterdir()) == []
