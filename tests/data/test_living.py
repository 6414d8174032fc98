"""A dataset that lives: scans join, patients leave, and nobody else is moved."""

import json
import shutil

import numpy as np
import pytest
from growing import images, scans, where
from PIL import Image

from vitmed.cli.main import main
from vitmed.data import splits
from vitmed.data.dataset import Dataset
from vitmed.data.datasheet import read
from vitmed.data.ingest import ingest
from vitmed.data.withdraw import withdraw
from vitmed.errors import InputError
from vitmed.runs.lineage import made_from


def test_appending_moves_nobody(grown):
    """Otherwise a patient who was trained on yesterday is tested on today."""
    folder, before, pixels, result = grown
    after = where(folder / "set")
    assert len(before) == 60 and len(after) == 100 and sum(result["examples"].values()) == 100
    assert all(after[i] == before[i] for i in before)
    sides = {}
    for split, patient in after.values():
        sides.setdefault(patient, set()).add(split)
    assert len(sides) == 50 and all(len(side) == 1 for side in sides.values())
    shares = result["examples"]
    assert abs(shares["train"] - 60) <= 4 and abs(shares["val"] - 20) <= 4
    now = images(folder / "set")
    for scan, example in pixels.items():
        for name, value in example.items():
            np.testing.assert_array_equal(now[scan][name], value, err_msg=f"{name} of {scan}")
    assert "60 scans were in the dataset already" in " ".join(result["notes"])


def test_an_appended_set_is_as_one_made_at_once(grown):
    """Otherwise its datasheet, labels or statistics are those of the old part."""
    folder, _, _, _ = grown
    ingest(
        folder / "s", folder / "once", labels=folder / "s" / "labels.csv", split="60/20/20", progress=False
    )
    grew, once = read(folder / "set"), read(folder / "once")
    for key in (
        "classes",
        "task",
        "size",
        "dtype",
        "duplicates",
        "sizes",
        "spacings",
        "plan",
        "privacy",
        "modality",
    ):
        assert grew[key] == once[key], key
    total = [
        {c: sum(s[c] for s in sheet["class_counts"].values()) for c in sheet["classes"]}
        for sheet in (grew, once)
    ]
    assert total[0] == total[1]
    labels = [
        {i: (e["label"].tolist(), e["view"]) for i, e in images(folder / n).items()} for n in ("set", "once")
    ]
    assert labels[0] == labels[1]
    train = [
        e["image"] / 255 for i, e in images(folder / "set").items() if where(folder / "set")[i][0] == "train"
    ]
    np.testing.assert_allclose(grew["intensity"]["mean"], [np.mean(train)], rtol=1e-5)
    assert [h["examples"] for h in grew["history"]] and len(once["history"]) == 0


def test_what_is_told_of_a_scan_travels_with_it(grown):
    """Otherwise a table's view or timepoint is dropped, or a study's number identifies."""
    found = images(grown[0] / "set")["s003.png"]
    assert (found["site"], found["view"], found["timepoint"]) == ("site1", "PA", "1")
    assert found["study"] == images(grown[0] / "set")["s002.png"]["study"] not in ("", "st1")
    assert set(Dataset.open(grown[0] / "set").told("train", "view")) == {"PA", "AP"}


def test_new_classes_come_after_the_old(tmp_path):
    """Otherwise appending a class renames what the labels in the set mean."""
    ingest(tmp_path / "s", tmp_path / "set", labels=scans(tmp_path / "s", 12), progress=False)
    old = {i: int(e["label"][0]) for i, e in images(tmp_path / "set").items()}
    table = scans(tmp_path / "s", 15, first=12, classes=("artefact", "clear"))
    ingest(tmp_path / "s", tmp_path / "set", labels=table, append=True, progress=False)
    assert read(tmp_path / "set")["classes"] == ["clear", "lesion", "artefact"]
    new = {i: int(e["label"][0]) for i, e in images(tmp_path / "set").items()}
    assert all(new[i] == old[i] for i in old) and new["s024.png"] == 2


def test_a_fault_leaves_the_set_as_it_was(grown):
    """Otherwise one scan of another size, or nothing new at all, costs the dataset."""
    folder = grown[0]
    before = sorted(f.name for f in folder.iterdir())
    with pytest.raises(InputError, match="nothing to append"):
        ingest(folder / "s", folder / "set", labels=folder / "s" / "labels.csv", append=True, progress=False)
    (folder / "more").mkdir()
    Image.fromarray(np.zeros((12, 13), np.uint8)).save(folder / "more" / "wide.png")
    with pytest.raises(InputError, match="12 x 12.*wide.png is 12 x 13"):
        ingest(folder / "more", folder / "set", append=True, progress=False)
    shutil.rmtree(folder / "more")
    assert sorted(f.name for f in folder.iterdir()) == before and len(where(folder / "set")) == 100
    with pytest.raises(InputError, match="does not exist"):
        ingest(folder / "s", folder / "none", append=True, progress=False)


def test_withdrawing_takes_one_patient_and_moves_nobody(grown, capsys):
    """Otherwise a person who withdrew is still in the records, the datasheet or the page."""
    folder = grown[0]
    before = where(folder / "set")
    hashes, plan = [read(folder / "set")["content_hash"]], read(folder / "set")["plan"]
    assert main(["withdraw", "MRN7", str(folder / "set"), "--runs", str(folder), "--json"]) == 0
    told = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    after = where(folder / "set")
    gone = {"s014.png", "s015.png"}
    assert set(before) - set(after) == gone and told["withdrawn"] == 2 and told["runs"] == []
    assert all(after[i] == before[i] for i in after)
    name = before["s014.png"][1]
    assert told["patient"] == name and told["content_hashes"][-1:] == hashes
    for file in (folder / "set").iterdir():
        content = file.read_bytes()
        assert name.encode() not in content and b"s014" not in content, file.name
    assert not (folder / "set.former").exists() and not (folder / "set.partial").exists()
    sheet = read(folder / "set")
    assert sum(sheet["examples"].values()) == 98 and sum(sheet["patients"].values()) == 49
    assert sheet["plan"] == plan and "frames" in plan
    with pytest.raises(InputError, match="no scan of that patient"):
        withdraw("MRN7", folder / "set", progress=False)
    withdraw(before["s020.png"][1], folder / "set", progress=False)
    assert len(where(folder / "set")) == 96


def test_who_withdrew_does_not_come_back_with_the_next_append(grown):
    """Otherwise the folder that still holds their scans brings them back, and nobody hears of it."""
    folder = grown[0]
    withdraw("MRN7", folder / "set", progress=False)
    table = scans(folder / "s", 51, first=50)
    made = ingest(folder / "s", folder / "set", labels=table, append=True, progress=False)
    there = where(folder / "set")
    assert not {"s014.png", "s015.png"} & set(there) and {"s100.png", "s101.png"} <= set(there)
    assert any("2 scans of patients who were withdrawn" in note for note in made["notes"])
    with pytest.raises(InputError, match=r"are in .* already, or of patients who were withdrawn \(2\)"):
        ingest(folder / "s", folder / "set", labels=table, append=True, progress=False)


def test_refused_files_of_who_withdrew_go_with_them(tmp_path):
    """Otherwise the datasheet says for ever that somebody called so had a scan, and what was wrong with it."""

    def patients(*numbers):
        for p in numbers:
            folder = tmp_path / "s" / f"P{p:04}"
            folder.mkdir(parents=True)
            Image.fromarray(np.full((8, 8), p, np.uint8)).save(folder / "a.png")
            (folder / "broken.png").write_bytes(b"no picture")

    def refused():
        return len(read(tmp_path / "set")["refused_files"]), read(tmp_path / "set")["refused"]

    patients(1, 2, 3)
    how = {"patient_pattern": r"P\d{4}", "progress": False}
    ingest(tmp_path / "s", tmp_path / "set", **how)
    (reason,) = refused()[1]
    assert refused() == (3, {reason: 3})
    withdraw("P0003", tmp_path / "set", progress=False)
    assert refused() == (2, {reason: 2})
    patients(4)
    made = ingest(tmp_path / "s", tmp_path / "set", append=True, **how)
    assert any("1 scan of patients who were withdrawn" in note for note in made["notes"])
    assert refused() == (3, {reason: 3})


def test_another_key_is_no_use(grown):
    """Otherwise a patient is not found, or is taken for another person and lands in two splits."""
    folder = grown[0]
    (folder / "other").write_text("ab" * 32)
    with pytest.raises(InputError, match="was made with key"):
        withdraw("MRN7", folder / "set", key=folder / "other", progress=False)
    table = scans(folder / "s", 52, first=50)
    for key, words in (("other", "was made with key"), ("lost", "lost cannot be read")):
        with pytest.raises(InputError, match=words):
            ingest(folder / "s", folder / "set", labels=table, append=True, key=folder / key, progress=False)
    assert not (folder / "lost").exists()


def test_runs_made_from_the_set_are_found(tmp_path):
    """Otherwise nobody knows which models have learned from a patient who withdrew."""

    def run(name, content, init=None):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps({"format": 1, "config": {"init_from": init}}))
        (folder / "dataset.json").write_text(json.dumps({"content_hash": content}))
        return str(folder)

    one = run("runs/mae", "old")
    two = run("study/cells/a", "elsewhere", one)
    three = run("runs/probe", "elsewhere", two)
    run("runs/other", "elsewhere")
    found = made_from(["old", "new"], [tmp_path])
    assert found == [{"run": one, "from": None}, {"run": three, "from": two}, {"run": two, "from": one}]


def test_folds_test_on_everybody_once(tmp_path):
    """Otherwise cross-validation tests some patients twice and others never."""
    who = [f"p{k // 2}" for k in range(80)]
    strata = [str(k // 2 % 2) for k in range(80)]
    ids = [str(k) for k in range(80)]
    tested, validated = [], []
    for fold in range(1, 6):
        found = splits.make(ids, who, strata, [None] * 80, f"fold:{fold}/5", seed=1)
        tested.append({p for p, s in zip(who, found.split, strict=True) if s == "test"})
        validated.append({p for p, s in zip(who, found.split, strict=True) if s == "val"})
        assert not tested[-1] & validated[-1] and abs(found.split.count("test") - 16) <= 2
        classes = [c for c, s in zip(strata, found.split, strict=True) if s == "test"]
        assert abs(classes.count("0") - classes.count("1")) <= 2
    assert sorted(p for part in tested for p in part) == sorted(set(who))
    assert validated[0] == tested[1] and validated[4] == tested[0]


def test_a_site_is_left_out_whole(tmp_path):
    """Otherwise a model is tested at a hospital whose patients it has seen."""
    table = scans(tmp_path / "s", 40)
    made = ingest(tmp_path / "s", tmp_path / "set", labels=table, split="site:site1", progress=False)
    opened = Dataset.open(tmp_path / "set")
    assert set(opened.sites("test")) == {"site1"} and made["examples"]["test"] == 40
    assert set(opened.sites("train")) == set(opened.sites("val")) == {"site0"}
    with pytest.raises(
        InputError,
        match="site:north leaves nothing to test: 0 of 40 patients are of it, and there are 2 sites",
    ):
        ingest(tmp_path / "s", tmp_path / "other", labels=table, split="site:north", progress=False)


@pytest.mark.parametrize("text", ["fold:0/5", "fold:6/5", "fold:1/2", "fold:a", "site:", "folds:1/5"])
def test_a_rule_that_is_none_is_refused(text):
    """Otherwise a typing mistake becomes a split."""
    with pytest.raises(InputError, match="--split"):
        splits.parse(text)


def test_a_date_is_no_timepoint(tmp_path):
    """Otherwise a date, which identifies, travels with the example."""
    scans(tmp_path / "s", 1)
    for date in ("2019-03-04", "20190304", "4.3.2019", "2019-03-04T10:00"):
        (tmp_path / "s" / "labels.csv").write_text(f"path,timepoint\ns000.png,{date}\n")
        with pytest.raises(InputError, match="date as timepoint in line 2"):
            ingest(tmp_path / "s" / "labels.csv", tmp_path / "set", progress=False)


def test_new_scans_go_where_their_patient_or_copy_is():
    """Otherwise a second scan of a patient is drawn anew, or a scan that joins two clusters moves one of them."""
    who = ["p", "q", "p", "r"]
    seeds = range(8)  # drawn by chance it would not always be so
    for seed in seeds:
        found = splits.make(
            list("abcd"), who, [""] * 4, [None] * 4, "34/33/33", seed, fixed=["test", "val", None, None]
        )
        assert found.split[:3] == ["test", "val", "test"]
        joined = splits.make(
            list("abcd"),
            [""] * 4,
            [""] * 4,
            [None] * 4,
            "34/33/33",
            seed,
            clusters=[0, 0, 0, 3],
            fixed=["val", "test", None, None],
        )
        assert joined.split[:3] == ["val", "test", "val"]
