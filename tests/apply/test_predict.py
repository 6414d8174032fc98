"""``predict`` on real runs and files: what is written, where it lies, what is refused, and that it is whole or not there."""

import json
import shutil
from types import SimpleNamespace

import nibabel
import numpy as np
import pytest
import short_runs
from PIL import Image
from predicted import result, save, table
from scipy import ndimage

from vitmed.apply.answers import Scores
from vitmed.apply.intake import cut_off
from vitmed.apply.mask_files import names_of
from vitmed.apply.predict import predict
from vitmed.cli.main import main
from vitmed.data.dataset import Dataset
from vitmed.data.ingest import ingest
from vitmed.errors import InputError
from vitmed.evaluate import masks
from vitmed.evaluate.evaluate import evaluate
from vitmed.evaluate.predictions import read
from vitmed.infer import Model
from vitmed.runs import ledger


def painted(size):
    """Values of a scan with a box (200) and a slab (130) on 60, and 0 in one corner."""
    values = np.full(size, 60, np.int16)
    values[(-1,) * len(size)] = 0
    values[tuple(slice(0, n // 3) if i else slice(None) for i, n in enumerate(size))] = 130
    values[tuple(slice(n // 2, n - 2) for n in size)] = 200
    return values


def turned(degrees, spacing=(1.0, 1.0, 1.0)):
    """An affine whose axes are permuted, flipped and oblique."""
    a = np.deg2rad(degrees)
    turn = np.array([[np.cos(a), -np.sin(a), 0], [np.sin(a), np.cos(a), 0], [0, 0, 1.0]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.array([[0, -1, 0], [0, 0, 1], [-1, 0, 0]]) * np.array(spacing)
    affine[:3, 3] = 11, -7, 31
    return affine


def test_scores_of_new_scans_are_those_of_the_evaluation(classifier, tiny_pngs, tmp_path):
    """Otherwise a scan that comes as a file is prepared in another way than the dataset the numbers are of."""
    evaluated = evaluate(classifier)
    kept = read(classifier / "evaluations" / "test" / "predictions.csv")
    data = Dataset.open(Model.open(classifier).dataset_path)
    image = {record["image"].tobytes(): record["id"] for record in data.records("test")}
    files = {image.get(np.asarray(Image.open(file)).tobytes()): file for file in tiny_pngs.glob("*.png")}
    files = [files[name] for name in kept.ids]  # what the dataset calls a scan does not tell its file
    found = predict(classifier, files, tmp_path / "out")
    rows = table(tmp_path / "out")
    assert [row["id"] for row in rows] == [file.name for file in files]
    assert found["examples"] == len(kept.ids)
    made = np.array([[float(row[f"probability:{name}"]) for name in kept.classes] for row in rows])
    np.testing.assert_allclose(made, kept.score, atol=1e-6)
    at = evaluated["threshold"]["lesion"]
    assert [row["predicted"] for row in rows] == ["lesion" if p >= at else "clear" for p in made[:, 1]]
    assert found["threshold"] == evaluated["threshold"] and "metrics" not in found
    told = result(tmp_path / "out")
    assert told["format"] == 1 and told["run"] == str(classifier) and told["checkpoint"] == 2
    sheet = json.loads((classifier / "dataset.json").read_text())
    assert told["trained_on"]["content_hash"] == sheet["content_hash"]
    assert [scan["id"] for scan in told["scans"]] == [file.name for file in files]


def test_a_classifier_of_boxes_looks_where_it_was_judged(tiny_niftis, tmp_path):
    """Otherwise the box is the middle of the file, air perhaps, and not that of what ingest kept around the tissue."""
    scans = tmp_path / "scans"
    scans.mkdir()
    shutil.copy(tiny_niftis / "labels.csv", scans)
    for file in tiny_niftis.glob("*.nii.gz"):
        beside = np.zeros((16, 16, 20), np.int16)
        save(
            scans / file.name, np.concatenate([np.asarray(nibabel.load(file).dataobj), beside], -1), np.eye(4)
        )
    ingest(scans, tmp_path / "set", labels=scans / "labels.csv", modality="mr", size=(12, 12, 12), workers=1)
    keys = {"train.steps": 2, "data.crop": (8, 8, 8), "model.patch_size": (4, 4, 4)}
    short_runs.train(short_runs.CLASSIFY, tmp_path / "set", tmp_path / "run", **keys)
    evaluate(tmp_path / "run")
    kept = read(tmp_path / "run" / "evaluations" / "test" / "predictions.csv")
    predict(tmp_path / "run", [scans], tmp_path / "out")
    made = np.array([float(row[f"probability:{kept.classes[0]}"]) for row in table(tmp_path / "out")])
    assert np.abs(made - kept.score[:, :1]).min(1).max() < 1e-6 < np.ptp(kept.score[:, 0]) / 100


def test_of_grades_the_median_rank_is_said(tmp_path):
    """Otherwise predict says another class than the one that evaluate judges, and has no errors in ranks."""
    logits = np.log([[0.3, 0.4, 0.3], [0.1, 0.3, 0.6]])
    sheet = {"task": "multiclass", "classes": ["high", "low", "middle"]}
    model = SimpleNamespace(
        datasheet=sheet, order=["low", "middle", "high"], logits=lambda data, split, at: logits
    )
    data = SimpleNamespace(ids=lambda split: ["x", "y"])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("vitmed.evaluate.operating.thresholds", lambda *_: None)
        scores = Scores(model, None, 1, tmp_path, True)
    assert list(scores.ask(data, "test", np.arange(2))) == [2]
    scores.finish()
    assert [row["predicted"] for row in table(tmp_path)] == ["middle", "middle"]


def test_a_run_without_its_dataset_says_where_its_threshold_is_from(
    classifier, tiny_pngs, tmp_path, monkeypatch
):
    """Otherwise far from its data a run decides at 0.5 without a word."""
    for file in classifier.glob("evaluations/*/metrics.json"):
        file.unlink()
    chosen = predict(classifier, [tiny_pngs], tmp_path / "a", count=2)["threshold"]
    recorded = evaluate(classifier)["threshold"]
    assert chosen == recorded
    monkeypatch.setattr(Model, "dataset_path", property(lambda self: str(tmp_path / "gone")))
    assert predict(classifier, [tiny_pngs], tmp_path / "b", count=2)["threshold"] == recorded
    for file in classifier.glob("evaluations/*/metrics.json"):
        file.unlink()
    found = predict(classifier, [tiny_pngs], tmp_path / "c", count=2)
    assert found["threshold"] is None and any("0.5 serves" in note for note in found["notes"])


def test_a_dataset_has_metrics_that_count_as_a_look(classifier, segmenter, by_brightness, tmp_path):
    """Otherwise a test split can be looked at through predict without the ledger knowing."""
    for run in (classifier, segmenter):
        model = Model.open(run)
        own = evaluate(run)
        found = predict(run, [model.dataset_path], tmp_path / run.name)
        for name, number in own["metrics"].items():
            assert found["metrics"][name] == pytest.approx(number, nan_ok=True), name
        assert found["opened"] == own["opened"] + 1 == len(ledger.entries(run))
        chosen_by = predict(run, [model.dataset_path], tmp_path / f"{run.name}_val", split="val")
        flattered = any("chosen on this same split" in note for note in chosen_by["notes"])
        assert flattered is (run is classifier)
        some = predict(run, [model.dataset_path], tmp_path / f"{run.name}_3", count=3)
        assert some["examples"] == 3
        with pytest.raises(InputError, match="no split 'holdout'"):
            predict(run, [model.dataset_path], tmp_path / "other", split="holdout")


@pytest.mark.parametrize("kind", ["classifier", "segmenter"])
def test_what_has_no_truth_is_answered_all_the_same(kind, request, monkeypatch, tmp_path):
    """Otherwise minutes of work end in an error since the first scans of a split happen to have no label or mask."""
    run = request.getfixturevalue(kind)
    data = Dataset.open(Model.open(run).dataset_path)
    label, weight = data.labels("test")
    weight = weight.copy()
    weight[0] = 0
    monkeypatch.setattr(Dataset, "labels", lambda self, split: (label, weight))
    stacked = masks.Judging.stacked
    monkeypatch.setattr(masks.Judging, "stacked", lambda self: (*stacked(self)[:2], np.zeros((1, 2))))
    found = predict(run, [data.path], tmp_path / "out", count=1)
    assert found["examples"] == 1 and "metrics" not in found
    assert any("no metrics: nothing is known of what is true" in note for note in found["notes"])


def test_masks_lie_on_the_voxels_of_their_files(volume_segmenter, by_brightness, tmp_path):
    """Otherwise a mask is a voxel aside, mirrored, or of another patient's position: oblique, flipped, anisotropic."""
    values, classes = painted((20, 14, 26)), by_brightness
    scans = tmp_path / "scans"
    (scans / "sub-01").mkdir(parents=True)
    save(scans / "plain.nii", values, np.diag([1, 1, 1, 1]))
    save(scans / "sub-01" / "oblique.nii.gz", values, turned(20))
    save(scans / "coarse.nii.gz", values[::2], turned(-35, (1.0, 1.0, 2.0))[:, [2, 0, 1, 3]])
    found = predict(volume_segmenter, [scans], tmp_path / "out")
    files = {scan["id"]: scan for scan in result(tmp_path / "out")["scans"]}
    assert found["examples"] == 3 and found["structures"] == {"1": 1, "2": 2} and not found["refused"]
    assert files["sub-01/oblique.nii.gz"]["file"] == "sub-01/oblique.nii.gz"
    for name, scan in files.items():
        theirs, ours = nibabel.load(scans / name), nibabel.load(tmp_path / "out" / scan["file"])
        mask = np.asarray(ours.dataobj)
        assert mask.shape == theirs.shape and mask.dtype == np.uint8 and not scan["cut_off"]
        np.testing.assert_allclose(ours.affine, theirs.affine, atol=1e-4)
        expected = classes(np.asarray(theirs.dataobj))
        if name == "coarse.nii.gz":  # back from a grid of 1 mm: true but at edges
            assert (mask == expected).mean() > 0.9
            for k in (1, 2):
                inner = ndimage.binary_erosion(expected == k)
                assert (mask[inner] == k).all()
        else:
            np.testing.assert_array_equal(mask, expected)
        one = abs(np.linalg.det(theirs.affine[:3, :3]))
        assert scan["voxels"] == {str(k): int((mask == k).sum()) for k in (1, 2)}
        assert scan["mm3"] == {k: pytest.approx(one * n, rel=1e-4) for k, n in scan["voxels"].items()}


def test_a_volume_of_unknown_place_is_no_nifti(volume_segmenter, by_brightness, tmp_path):
    """Otherwise a position is made up for a scan that tells none, or its spacing taken for granted unasked."""
    classes = by_brightness
    np.save(tmp_path / "a.npy", painted((12, 16, 10))[..., None].astype(np.uint8))
    with pytest.raises(
        InputError, match=r"a.npy: no voxel spacing \(the run .* learned at 1 x 1 x 1 mm; --force"
    ):
        predict(volume_segmenter, [tmp_path / "a.npy"], tmp_path / "out")
    assert not (tmp_path / "out").exists() and not (tmp_path / "out.partial").exists()
    found = predict(volume_segmenter, [tmp_path / "a.npy"], tmp_path / "out", force=True)
    assert any(note.startswith("forced on 1 scan: no voxel spacing") for note in found["notes"])
    (scan,) = result(tmp_path / "out")["scans"]
    assert scan["file"] == "a.npy" and scan["forced"] == ["no voxel spacing: taken as 1 x 1 x 1 mm"]
    np.testing.assert_array_equal(np.load(tmp_path / "out" / "a.npy"), classes(painted((12, 16, 10))))


@pytest.mark.parametrize(
    ("read_size", "grid", "said"),
    [
        ((10, 10), np.eye(3), False),
        ((8, 4), np.eye(3), False),  # padded
        ((11, 10), np.eye(3), False),  # a voxel, as a size is rounded
        ((12, 10), np.eye(3), True),
        ((14, 10), [[1, 0, 2], [0, 1, 0], [0, 0, 1]], True),  # cropped around the middle
        ((20, 30), [[2, 0, 0.5], [0, 3, 1], [0, 0, 1]], False),  # of another spacing
        ((20, 40), [[2, 0, 0.5], [0, 3, 1], [0, 0, 1]], True),
    ],
)
def test_what_the_model_is_not_shown_is_said(read_size, grid, said):
    """Otherwise background that nobody looked at passes for background that the model saw."""
    record = {"image": np.zeros((10, 10, 1)), "grid": np.array(grid, float), "read_size": np.array(read_size)}
    assert cut_off(record) is said


def test_images_come_back_at_their_own_size(segmenter, by_brightness, tmp_path):
    """Otherwise a mask of the model's size is handed out for an image of another, or is stretched."""
    values, classes = painted((16, 24)).astype(np.uint8), by_brightness
    Image.fromarray(values.repeat(3, 0).repeat(3, 1)).save(tmp_path / "large.png")
    Image.fromarray(values).save(tmp_path / "own.bmp")
    Image.fromarray(values[:, :20]).save(tmp_path / "narrow.png")
    predict(segmenter, [tmp_path / n for n in ("large.png", "own.bmp", "narrow.png")], tmp_path / "out")
    masks = {p.name: np.asarray(Image.open(p)) for p in (tmp_path / "out").glob("*.png")}
    assert {name: mask.shape for name, mask in masks.items()} == {
        "large.png": (48, 72),
        "own.png": (16, 24),
        "narrow.png": (16, 20),
    }
    np.testing.assert_array_equal(masks["own.png"], classes(values))
    np.testing.assert_array_equal(masks["narrow.png"], classes(values[:, :20]))
    expected = classes(values.repeat(3, 0).repeat(3, 1))
    assert (masks["large.png"] == expected).mean() > 0.95


def test_a_file_and_its_example_have_the_same_mask(volume_segmenter, marked_volumes, tmp_path):
    """Otherwise a network is fed another scan from a file than from the dataset that its numbers are of."""
    scans = sorted(marked_volumes.parent.glob("p??.nii.gz"))
    assert predict(volume_segmenter, scans, tmp_path / "files")["examples"] == len(scans) == 20
    found = predict(volume_segmenter, [marked_volumes], tmp_path / "dataset")
    assert found["examples"] == 4 and set(found["failures"]) == {"1", "2"}

    def written(out):
        made = [nibabel.load(out / scan["file"]) for scan in result(out)["scans"]]
        return [(mask.shape, mask.affine.tobytes(), np.asarray(mask.dataobj).tobytes()) for mask in made]

    files = written(tmp_path / "files")
    assert len(set(files)) > 4 and set(written(tmp_path / "dataset")) <= set(files)


def test_nothing_is_left_half_written(segmenter, marked_dataset, tmp_path, monkeypatch):
    """Otherwise a folder of half the masks passes for all of them."""
    probabilities = Model.probabilities

    def fails(self, dataset, split, indices=None):
        for i, made in enumerate(probabilities(self, dataset, split, indices)):
            if i == 2:
                raise OSError("the disk went away")
            yield made

    monkeypatch.setattr(Model, "probabilities", fails)
    with pytest.raises(Exception, match="went away"):
        predict(segmenter, [marked_dataset], tmp_path / "a" / "out")
    assert list(tmp_path.iterdir()) == []
    looked = len(ledger.entries(segmenter))
    (tmp_path / "out").mkdir()
    with pytest.raises(InputError, match="exists already"):
        predict(segmenter, [marked_dataset], tmp_path / "out")
    assert len(ledger.entries(segmenter)) == looked


def test_files_are_called_as_their_scans():
    """Otherwise two scans share a mask, a name loses its meaning, or an id leads out of the folder."""
    ids = ["a.nii.gz", "b.nii", "b.png", "s/c.v2.mha", "series", "x.tif#0003", "../../etc/d.png", "/e.png"]
    assert list(names_of(ids).values()) == [
        "a",
        "b.nii",
        "b.png",
        "s/c.v2",
        "series",
        "x#0003",
        "etc/d",
        "e",
    ]


def out_and_in_again(run, tmp_path):
    """A run made of the weights of another by way of a file."""
    file, back = tmp_path / "w.safetensors", tmp_path / "run"
    assert main(["convert", str(run), "--to", "safetensors", "--out", str(file)]) == 0
    assert main(["convert", str(file), "--out", str(back)]) == 0
    return back


def test_a_classifier_from_a_file_says_what_it_said(classifier, tiny_dataset, tiny_pngs, tmp_path):
    """Otherwise weights that were handed on start a training, and answer nobody."""
    back = out_and_in_again(classifier, tmp_path)
    files = sorted(tiny_pngs.glob("*.png"))[:8]
    for name, run in (("own", classifier), ("back", back)):
        predict(run, files, tmp_path / name)
    scores = [[row["probability:lesion"] for row in table(tmp_path / name)] for name in ("own", "back")]
    assert scores[0] == scores[1] and len(scores[0]) == 8
    with pytest.raises(
        InputError, match="has its weights from a file, which names no dataset; give --dataset"
    ):
        evaluate(back)
    found = evaluate(back, tiny_dataset)
    assert found["metrics"] == evaluate(classifier)["metrics"]
    assert found["folder"] == str(back / "evaluations" / "test"), "its dataset is known by its content"
    sheet = json.loads((back / "dataset.json").read_text())
    assert not {"refused_files", "series", "privacy", "history", "notes"} & set(sheet)
    del sheet["modality"]
    (back / "dataset.json").write_text(json.dumps(sheet))
    with pytest.raises(InputError, match="from a file of an older vitmed.*write the file again"):
        predict(back, files, tmp_path / "older")


def test_a_segmenter_from_a_file_gives_the_same_masks(volume_segmenter, marked_volumes, tmp_path):
    """Otherwise one that learned from boxes looks at the middle of each scan alone, or has no names for what it marks."""
    back = out_and_in_again(volume_segmenter, tmp_path)
    scan = sorted(marked_volumes.parent.glob("p??.nii.gz"))[0]
    masks = []
    for name, run in (("own", volume_segmenter), ("back", back)):
        assert predict(run, [scan], tmp_path / name)["structures"] == {"1": 1, "2": 2}
        masks.append(np.asarray(nibabel.load(tmp_path / name / scan.name).dataobj))
    np.testing.assert_array_equal(*masks)
    assert len(np.unique(masks[0])) > 1


def test_the_verb(segmenter, marked_dataset, tmp_path, capsys):
    """Otherwise the command line does not reach the masks, or its JSON lacks what scripts read."""
    words = ["predict", str(segmenter), str(marked_dataset)]
    assert main([*words, "--out", str(tmp_path / "m"), "--count", "2", "--json"]) == 0
    told = capsys.readouterr()
    answer = json.loads(told.out.strip().splitlines()[-1])
    assert (
        answer["examples"] == 2 and answer["out"] == str(tmp_path / "m") and answer["run"] == str(segmenter)
    )
    assert set(answer["metrics"]["dice"]) >= {"value", "low", "high"}
    assert "1 1, 2 2" in told.err and "2 scans, checkpoint 4: masks in" in told.err
    for words, message in (
        ([str(segmenter), "nothing.png", "--out", "o"], "nothing.png does not exist"),
        ([str(tmp_path), str(marked_dataset), "--out", "o"], "not a run"),
        ([str(segmenter), str(marked_dataset), "--out", str(tmp_path / "m")], "exists already"),
        ([str(segmenter), str(marked_dataset), "--out", "o", "--count", "0"], "--count is 0"),
    ):
        assert main(["predict", *words]) == 2
        assert message in capsys.readouterr().err
