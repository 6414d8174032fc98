"""What is appended is read, prepared, labelled and split as what was there."""

import pytest
from growing import FIRST, images, manifest, scans, where

from vitmed.cli.main import main
from vitmed.data.datasheet import read
from vitmed.data.ingest import ingest
from vitmed.data.withdraw import withdraw
from vitmed.errors import InputError


def test_a_set_that_began_small_is_split_once_it_has_grown(tmp_path, capsys):
    """Otherwise all who are ever appended to it train, and nobody is left to test on."""

    def grow(patients, first=0):
        table = scans(tmp_path / "s", patients, first)
        made = ingest(tmp_path / "s", tmp_path / "set", labels=table, append=bool(first), progress=False)
        return made["examples"], " ".join(made["notes"])

    for patients, first in ((4, 0), (6, 4)):
        examples, notes = grow(patients, first)
        assert examples == {"train": 2 * patients}
        assert f"Fewer than 10 patients ({patients}): all go to train" in notes
    withdraw("MRN5", tmp_path / "set", progress=False)
    assert "Fewer than 10 patients (5)" in " ".join(read(tmp_path / "set")["notes"])
    assert main(["inspect", str(tmp_path / "set")]) == 0
    assert "all to train, too few for 80/10/10 yet" in capsys.readouterr().out
    assert "all to train, too few yet for 80/10/10" in (tmp_path / "set" / "datasheet.html").read_text()
    before = where(tmp_path / "set")
    examples, notes = grow(41, 6)
    assert examples == {"train": 64, "val": 8, "test": 8}
    assert "5 patients stay in train" in notes and "Fewer" not in notes
    after = where(tmp_path / "set")
    assert all(after[i] == before[i] for i in before)
    examples, notes = grow(61, 41)
    assert examples["train"] == 96 and "stay in train" not in notes


def test_who_asks_for_a_split_of_a_small_set_gets_it(tmp_path):
    """Otherwise training on everybody cannot be meant, or nobody can be tested on before the tenth patient is there."""
    for name, first, later, splits_then in (
        ("train", {"split": "train"}, {}, {"train"}),
        ("shares", {}, {"split": "80/10/10"}, {"train", "val", "test"}),
    ):
        folder = tmp_path / name
        ingest(folder / "s", folder / "set", labels=scans(folder / "s", 4), progress=False, **first)
        table = scans(folder / "s", 8 if later else 30, 4)
        made = ingest(folder / "s", folder / "set", labels=table, append=True, progress=False, **later)
        assert set(made["examples"]) == splits_then, name


def test_whole_numbers_that_are_appended_to_values_are_values(tmp_path, capsys):
    """Otherwise the option must be given again each time, or words are met by a traceback."""
    out, ages = str(tmp_path / "set"), [str(a) for a in range(40, 65)]
    table = str(scans(tmp_path / "s", 25, finding="age", classes=ages))
    command = ["ingest", str(tmp_path / "s"), "--labels", table, "--out"]
    assert main([*command, str(tmp_path / "classes")]) == 0
    assert "25 of 25 classes are numbers" in capsys.readouterr().out
    assert main([*command, out, "--task", "regression"]) == 0
    assert "classes are numbers" not in capsys.readouterr().out
    scans(tmp_path / "s", 30, 25, classes=ages)
    assert main([*command, out, "--append"]) == 0
    assert (read(out)["task"], read(out)["classes"]) == ("regression", ["age"])
    assert images(out)["s058.png"]["label"] == [44]
    capsys.readouterr()
    scans(tmp_path / "s", 31, 30)
    for more, words in (
        ([out], "the label 'clear', which is no number"),
        ([str(tmp_path / "classes"), "--task", "regression"], "--task is regression, but the labels of"),
        ([str(tmp_path / "new"), "--task", "ordinal"], "--task 'ordinal' is not known"),
    ):
        assert main([*command, *more, *["--append"] * (more[0] != str(tmp_path / "new"))]) == 2
        assert words in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"split": "train"}, "leave out --split train"),
        ({"seed": 3}, "--seed 3"),
        ({"size": (8, 8)}, "--size"),
        ({"modality": "xray"}, "--modality"),
        ({"dedupe": True}, "--dedupe"),
    ],
)
def test_another_way_of_making_is_refused(grown, more, words):
    """Otherwise half of a set is prepared or split in one way and half in another."""
    folder = grown[0]
    table = scans(folder / "s", 52, first=50)
    before = where(folder / "set")
    with pytest.raises(InputError, match=words):
        ingest(folder / "s", folder / "set", labels=table, append=True, progress=False, **more)
    assert where(folder / "set") == before


def test_files_that_do_not_tell_their_modality_can_join_those_that_did(tmp_path):
    """Otherwise one message says to name it, the next to leave it out, and no picture ever joins a set of DICOM."""
    table = manifest(tmp_path, FIRST)
    header, *rows = table.read_text().split()
    table.write_text("\n".join([f"{header},modality", *(f"{row},MR" for row in rows)]) + "\n")
    ingest(table, tmp_path / "set", progress=False)
    more = manifest(tmp_path, {"p2/c.png": (4, "Cat")}, "m/more.csv")
    for modality, words in (
        (None, "name it with --modality"),
        ("ct", "--modality is ct, but .* with mr; leave"),
    ):
        with pytest.raises(InputError, match=words):
            ingest(more, tmp_path / "set", modality=modality, append=True, progress=False)
    ingest(more, tmp_path / "set", modality="MR", append=True, progress=False)
    assert "c.png" in where(tmp_path / "set") and read(tmp_path / "set")["modality"] == "mr"
