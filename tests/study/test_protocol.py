"""What is made sure of before the first run, on real datasets of a few scans."""

import functools
import json
import shutil
from pathlib import Path

import pytest
from made_up_sets import write
from ml_collections import ConfigDict

from vitmed import durable
from vitmed.data import lookalikes
from vitmed.data.dataset import Dataset
from vitmed.errors import InputError
from vitmed.study import protocol, sources
from vitmed.study.plan import plan


@pytest.fixture(scope="module")
def clean(tmp_path_factory):
    rows = [(f"s{i}", i, ("train", "train", "val", "test")[i // 2 % 4]) for i in range(24)]
    return write(tmp_path_factory.mktemp("clean") / "x", rows)


@pytest.fixture
def planned(tmp_path):
    """Lays out a study of one pretraining and two arms on a dataset; ``also`` gives keys of its config other values."""

    def make(path, pretrain=None, semi=None, folds=0, also=None):
        def own(objective, **data):
            return {
                "data": {"path": "", "split": "train", "val_split": "val", **data},
                "objective": {"name": objective},
                "train": {"steps": 2, "batch_size": 2},
                "init_from": "",
            }

        config = {
            "data": {"path": str(path), "folds": folds},
            "study": {
                "name": "x",
                "budgets": (1.0,),
                "draws": 1,
                "metrics": ("auroc",),
                "reference": "plain",
            },
            "pretrain": own("mae", **(pretrain or {})),
            "arms": {
                "plain": {
                    "config": own("supervised", apart=(semi or {}).get("apart", ())),
                    "init": "pretrain",
                },
                "semi": {"config": own("semi_masked", **(semi or {}))},
            },
        }
        for key, value in (also or {}).items():
            *parents, last = key.split(".")
            functools.reduce(dict.__getitem__, parents, config)[last] = value
        return plan(ConfigDict(config, allow_dotted_keys=True), tmp_path / "study")

    return make


@pytest.fixture
def trained(tmp_path):
    """Makes a run of a training elsewhere, as far as its folder tells what it learned from."""

    def make(name, path, objective="mae", init_from="", **data):
        run = tmp_path / "elsewhere" / name
        data = {"path": str(path), "split": "train", **data}
        config = {"data": data, "objective": {"name": objective}, "init_from": init_from}
        run.mkdir(parents=True)
        durable.write_json(run / "config.json", {"format": 1, "config": config})
        durable.write_json(run / "dataset.json", {"format": 1, **Dataset.open(path).datasheet})
        return str(run)

    return make


def test_a_clean_dataset_passes_and_its_validation_labels_are_counted(clean, planned):
    """Otherwise studies of good data do not start, or nobody knows what choosing on validation cost."""
    contents = {str(clean): Dataset.open(clean).datasheet["content_hash"]}
    facts = protocol.check(planned(clean))
    assert facts == {"validation": 6, "probed": {}, "contents": contents, "notes": []}


def test_copies_of_validation_scans_are_refused_or_left_out(torn, planned):
    """Otherwise the pretrained model has seen what it is chosen and judged by."""
    with pytest.raises(
        InputError, match=r"config.pretrain would learn from copies .*2 of the val split.*data.apart"
    ):
        protocol.check(planned(torn))
    apart = {"apart": ("val", "test")}
    with pytest.raises(InputError, match=r"config.arms.semi.config would learn"):
        protocol.check(planned(torn, apart))
    found = protocol.check(planned(torn, apart, apart))
    assert found["notes"] == [
        "Pretrainings leave out what is a copy of a scan of test and val.",
        "Arms leave out what is a copy of a scan of test and val.",
    ]


def test_copies_flatter_whom_they_are_not_left_out_of(torn, planned):
    """Otherwise a table says that its numbers are flattered by scans that no arm learned from, or does not say it."""
    apart, judged = {"apart": ("val", "test")}, {"study.arms": ("plain",), "study.split": "val"}
    flattered = "2 scans of the val split are copies of scans with labels in train"
    told = protocol.check(planned(torn, apart, also=judged))["notes"]
    assert any(note.startswith(flattered) for note in told) and not any("Arms" in note for note in told)
    told = protocol.check(planned(torn, apart, apart, also=judged))["notes"]
    assert not any(note.startswith(flattered) for note in told)


def test_another_dataset_is_compared_by_its_pixels(clean, torn, planned, tmp_path):
    """Otherwise test scans come back under another name, in a set that was gathered elsewhere."""
    rows = [(f"other{i}", 100 + i, "train") for i in range(7)] + [("renamed", 6, "train")]
    other = write(tmp_path / "other", rows)
    mixed = {"mix": {str(clean): 1.0, str(other): 1.0}}
    with pytest.raises(InputError, match=r"config.pretrain would learn from copies .*1 of the test split"):
        protocol.check(planned(clean, mixed))
    with pytest.raises(InputError, match=r"config.arms.semi.config would learn"):
        protocol.check(planned(clean, {}, {"unlabelled": str(other)}))
    study = planned(clean, mixed | {"apart": ("test",)})
    assert protocol.check(study)["contents"] == {
        str(path): Dataset.open(path).datasheet["content_hash"] for path in (clean, other)
    }
    seen = durable.read_json(study.workdir / protocol.FILE)["apart"]
    assert len(seen) == 1 and " val " in seen[0], "what was compared is not compared again"


def test_a_test_split_is_not_learned_from(clean, planned):
    """Otherwise "unlabelled" scans are the test scans."""
    with pytest.raises(InputError, match="config.pretrain.data.split is 'test', which models are judged by"):
        protocol.check(planned(clean, {"split": "test"}))


@pytest.mark.parametrize("split", ["val", "test"])
def test_no_arm_learns_from_what_it_is_chosen_or_judged_by(clean, planned, split):
    """Otherwise all arms train on the test split alike, and the table praises each."""
    also = {f"arms.{name}.config.data.split": split for name in ("plain", "semi")}
    with pytest.raises(
        InputError, match=f"config.arms.plain.config.data.split is '{split}', which models are chosen"
    ):
        protocol.check(planned(clean, also=also))


def test_nothing_is_chosen_by_the_test_split(clean, planned):
    """Otherwise settings, thresholds and checkpoints are those that suit the test scans, or each arm is chosen by others."""
    val = {f"arms.{name}.config.data.val_split": "test" for name in ("plain", "semi")}
    with pytest.raises(InputError, match="config.arms.plain.config.data.val_split is 'test'"):
        protocol.check(planned(clean, also=val))
    with pytest.raises(InputError, match="config.pretrain.data.val_split is 'test'"):
        protocol.check(planned(clean, {"val_split": "test"}))
    with pytest.raises(InputError, match="validate on the splits train, val .*the same examples"):
        protocol.check(planned(clean, also={"arms.semi.config.data.val_split": "train"}))
    protocol.check(planned(clean, also={"study.split": "val"}))


def test_a_run_from_elsewhere_has_not_learned_from_what_is_held_apart(
    clean, torn, planned, trained, tmp_path
):
    """Otherwise an encoder that was pretrained on the test scans wins."""

    def check(run, key="arms.semi.config"):
        return protocol.check(planned(clean, also={f"{key}.init_from": run}))["notes"]

    assert check(trained("clean", clean)) == []
    tests = trained("tests", clean, split="test")
    for key in ("arms.semi.config", "pretrain"):
        with pytest.raises(
            InputError, match=rf"config.{key}.init_from: .*tests learned from the test split of"
        ):
            check(tests, key)
    with pytest.raises(InputError, match=r"tests learned from the test split .*start from another run"):
        check(trained("child", clean, init_from=tests))
    renamed = write(tmp_path / "renamed", [(f"r{i}", n, "train") for i, n in enumerate((100, 101, 6, 102))])
    with pytest.raises(InputError, match=r"learned from copies of scans .*1 of the test split"):
        check(trained("renamed", renamed))
    mixed = trained("mixed", clean, mix={str(clean): 1.0, str(renamed): 1.0})
    sheets = [Dataset.open(path).datasheet for path in (clean, renamed)]
    beside = [{"stream": "main", "weight": 1.0, "content_hash": sheet["content_hash"]} for sheet in sheets]
    durable.write_json(tmp_path / "elsewhere/mixed/dataset.json", {**sheets[0], "beside": beside})
    with pytest.raises(InputError, match=r"mixed learned from copies of scans .*1 of the test split"):
        check(mixed)
    with pytest.raises(InputError, match="does not exist; give the --workdir"):
        check(str(tmp_path / "nowhere"))


def test_where_a_dataset_was_moved_its_run_is_still_known(clean, planned, trained, tmp_path):
    """Otherwise moving the dataset makes a run that learned from its test split a stranger."""
    run = trained("tests", clean, split="test")
    moved = shutil.copytree(clean, tmp_path / "moved")
    config = durable.read_json(tmp_path / "elsewhere/tests/config.json")
    config["config"]["data"]["path"] = str(tmp_path / "gone")
    durable.write_json(tmp_path / "elsewhere/tests/config.json", config)
    with pytest.raises(InputError, match="tests learned from the test split of .*moved"):
        protocol.check(planned(moved, also={"arms.semi.config.init_from": run}))


def test_what_a_run_learned_from_is_told_where_it_is_not_known(clean, planned, trained, tmp_path):
    """Otherwise a reader takes an encoder that may have seen the test scans for one that has not."""
    other = write(tmp_path / "other", [(f"o{i}", 100 + i, "train") for i in range(4)])
    run = trained("gone", other, init_from=trained("published", clean))
    durable.write_json(
        tmp_path / "elsewhere/published/dataset.json", {"content_hash": "ab", "weights": {"layout": "DINOv2"}}
    )
    shutil.rmtree(other)
    notes = protocol.check(planned(clean, also={"arms.semi.config.init_from": run}))["notes"]
    said = "learned from is not known to vitmed"
    assert [note.partition(said)[0].split("/")[-1] for note in notes] == ["gone ", "published "]
    assert "a dataset of it is not where it was, or has changed" in notes[0]
    assert "its weights came from a file" in notes[1]
    assert all("config.arms.semi.config starts from it" in note for note in notes)


def test_labels_that_were_learned_before_a_budget_are_refused_or_told(clean, planned, trained, tmp_path):
    """Otherwise "10 labels" starts from a model that was trained with all of them."""
    few = {"study.budgets": (6,), "arms.semi.config.init_from": trained("labelled", clean, "supervised")}
    with pytest.raises(
        InputError, match="labelled learned from labels of .* the budget of 6 labels does not count"
    ):
        protocol.check(planned(clean, also=few))
    with pytest.raises(InputError, match="learned from labels of .*copy that"):
        protocol.check(planned(shutil.copytree(clean, tmp_path / "copy"), also=few))
    with pytest.raises(InputError, match="config.pretrain would learn from labels"):
        protocol.check(
            planned(clean, also={"study.budgets": (0.5,), "pretrain.objective": {"name": "supervised"}})
        )
    assert protocol.check(planned(clean, also=few | {"study.budgets": (1.0,)}))["notes"] == []
    other = write(tmp_path / "other", [(f"o{i}", 100 + i, "train") for i in range(4)])
    few["arms.semi.config.init_from"] = trained("other", other, "supervised")
    (note,) = protocol.check(planned(clean, also=few))["notes"]
    assert "learned from labels of" in note and note.endswith("which are in no budget.")


def test_labels_of_a_copy_of_the_dataset_are_its_own(clean, planned, tmp_path):
    """Otherwise a pretraining on a copy has all labels, and the table says that none was used beyond the budget."""
    copy = shutil.copytree(clean, tmp_path / "copy")
    also = {"study.budgets": (6,), "pretrain.objective": {"name": "supervised"}}
    with pytest.raises(InputError, match="config.pretrain would learn from labels of .*copy that the budget"):
        protocol.check(planned(clean, {"mix": {str(copy): 1.0}}, also=also))
    sheet = durable.read_json(copy / "datasheet.json")
    former = {"content_hash": sheet["content_hash"], "examples": sheet["examples"]}
    durable.write_json(copy / "datasheet.json", {**sheet, "content_hash": "grown", "history": [former]})
    with pytest.raises(InputError, match="config.pretrain would learn from labels of .*copy that the budget"):
        protocol.check(planned(clean, {"mix": {str(copy): 1.0}}, also=also))


@pytest.mark.parametrize("objective", [{"exclude": ("1",)}, {"masked": {"exclude": ("1",)}}])
def test_masks_that_say_what_to_leave_out_are_labels_where_budgets_pay_for_masks(
    clean, planned, trained, objective
):
    """Otherwise "6 masks" starts from a model that has read all of them."""
    also = {"pretrain.objective": {"name": "mae", **objective}}
    (source,) = sources.of("config.pretrain", planned(clean, also=also).pretrains[0], Dataset.open(clean))[0]
    assert not source.labels, "where budgets pay for labels of scans, masks are none"
    also |= {
        f"arms.{name}.config.objective": {"name": "supervised", "task": "segmentation"}
        for name in ("plain", "semi")
    }
    with pytest.raises(InputError, match="config.pretrain would learn from labels .*excludes no structure"):
        protocol.check(planned(clean, also=also | {"study.budgets": (6,)}))
    run = trained("excluding", clean)
    file = Path(run) / "config.json"
    config = durable.read_json(file)
    config["config"]["objective"] |= objective
    durable.write_json(file, config)
    del also["pretrain.objective"]
    with pytest.raises(InputError, match="excluding learned from labels"):
        protocol.check(planned(clean, also=also | {"study.budgets": (6,), "pretrain.init_from": run}))


def test_labels_that_a_probe_looks_with_are_told(clean, planned):
    """Otherwise the table says that no label was used beyond the budget, and a thousand were."""
    found = protocol.check(planned(clean, also={"pretrain.probe": {"every": 1, "examples": 5}}))
    assert found["probed"] == {"config.pretrain": 5}
    assert found["notes"] == [
        "While it learned, config.pretrain was looked at with the labels of 5 scans of its training split (config.probe): "
        "they decided nothing, and are in no budget."
    ]


def test_near_duplicates_of_what_is_held_apart_are_told(clean, planned, tmp_path):
    """Otherwise a test scan that was saved anew with another brightness is learned from without a word."""
    numbers = [(f"s{i}", i, "train") for i in range(8)] + [
        ("v", 1.5, "val"),
        ("w", 9, "val"),
        ("t", 10, "test"),
    ]
    own = write(tmp_path / "own", numbers + [("u", 11, "test")])
    assert protocol.check(planned(own))["notes"] == [
        "1 scan of the val split looks like scans that are learned from by config.pretrain and config.arms.semi.config: "
        "numbers are flattered by that."
    ]
    other = write(tmp_path / "other", [(f"o{i}", n, "train") for i, n in enumerate((100, 101, 6.5, 102))])
    study = planned(clean, {"mix": {str(clean): 1.0, str(other): 1.0}})
    expected = [
        f"1 scan of the test split looks like scans of {other} that are learned from by config.pretrain: numbers are "
        "flattered by that."
    ]
    assert protocol.check(study)["notes"] == expected
    written = durable.read_json(study.workdir / protocol.FILE)
    assert sorted(written["alike"].values()) == [0, 1]
    assert protocol.check(study)["notes"] == expected, "what was found is told again"


def test_who_learns_from_a_dataset_twice_is_told_of_its_near_duplicates_once(
    clean, planned, trained, tmp_path
):
    """Otherwise a run with a labelled and an unlabelled stream has seen more test scans than there are."""
    other = write(tmp_path / "other", [(f"o{i}", n, "train") for i, n in enumerate((100, 101, 6.5, 102))])
    run = trained("semi", other, "semi_masked", unlabelled="split")
    file = Path(run) / "dataset.json"
    sheet = durable.read_json(file)
    streams = [
        {"stream": name, "weight": 1.0, "content_hash": sheet["content_hash"]}
        for name in ("main", "unlabelled")
    ]
    durable.write_json(file, {**sheet, "beside": streams})
    notes = protocol.check(planned(clean, also={"arms.semi.config.init_from": run}))["notes"]
    assert [note.partition(" looks like")[0] for note in notes if "look" in note] == [
        "1 scan of the test split"
    ]


def test_near_duplicates_are_looked_for_within_bounds_and_it_shows(
    clean, planned, tmp_path, monkeypatch, capsys
):
    """Otherwise a study of a set that never counted them stands still for hours before it begins, without a word."""
    own = shutil.copytree(clean, tmp_path / "own")
    sheet = durable.read_json(own / "datasheet.json")
    del sheet["near_duplicates"]
    durable.write_json(own / "datasheet.json", sheet)
    assert protocol.check(planned(own))["notes"] == []
    assert "looking for near-duplicates: 24/24 scans" in capsys.readouterr().err
    protocol.check(planned(own), quiet=True)
    assert capsys.readouterr().err == ""
    (tmp_path / "study" / protocol.FILE).unlink()
    monkeypatch.setattr(lookalikes, "MOST", 10)
    (note,) = protocol.check(planned(own))["notes"]
    assert note == f"Near-duplicates within {own} were not looked for: they are 24 scans, more than 10."


def test_where_near_duplicates_are_not_looked_for_it_is_said(clean, planned, tmp_path, monkeypatch):
    """Otherwise silence is taken for a search that found nothing."""
    other = write(tmp_path / "other", [(f"o{i}", 100 + i, "train") for i in range(4)])
    monkeypatch.setattr(lookalikes, "MOST", 10)
    (note,) = protocol.check(planned(clean, {"mix": {str(other): 1.0}}))["notes"]
    assert note == (
        f"Near-duplicates between {clean} and {other} were not looked for: they are 16 scans, more than 10."
    )


def test_folds_are_of_one_set_and_test_on_each_once(tmp_path, planned):
    """Otherwise a patient is tested on twice, or one was learned from in the fold that tests on it."""
    rows = [(f"s{i}", i, "") for i in range(12)]
    for k in (1, 2, 3):
        write(tmp_path / f"fold{k}", rows, split=f"fold:{k}/3")
    study = planned(str(tmp_path / "fold{fold}" / "data"), folds=3)
    assert protocol.check(study)["validation"] == 12
    sheet = tmp_path / "fold2" / "data" / "datasheet.json"
    before = json.loads(sheet.read_text())
    sheet.write_text(json.dumps(before | {"splits": before["splits"] | {"how": "fold:1/3"}}))
    with pytest.raises(InputError, match="fold 2 of config.data.folds=3 is a dataset of"):
        protocol.check(study)
    sheet.write_text(json.dumps(before | {"splits": before["splits"] | {"seed": 9}}))
    with pytest.raises(InputError, match="their seed differ"):
        protocol.check(study)
