"""What is told of scans beside their pixels: tables, folders, npz files, patterns."""

import numpy as np
import pytest

from vitmed.data import annotations as known
from vitmed.data import tables
from vitmed.errors import InputError
from vitmed.scans import arrays
from vitmed.scans.scan import Source


def sources(*ids):
    return [Source(i, "image", (f"/root/{i}",)) for i in ids]


def table(tmp_path, text, found, refused=()):
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return tables.from_table(path, tmp_path, found, set(refused))


def encoded(tmp_path, text, *ids):
    return known.encode(table(tmp_path, text, sources(*ids)), list(ids))


@pytest.mark.parametrize(
    ("column", "cells", "task", "classes", "label"),
    [
        ("finding", ("sick", "well", ""), "multiclass", ["sick", "well"], [[0], [1], [0]]),
        ("grade", ("10", "9", ""), "multiclass", ["9", "10"], [[1], [0], [0]]),
        ("age", ("40.5", "62", ""), "regression", ["age"], [[40.5], [62], [0]]),
        ("a,b", ("1,0", "0,1", ",1"), "multilabel", ["a", "b"], [[1, 0], [0, 1], [0, 1]]),
        ("x,y", ("1.5,0", "0,1", "2,"), "regression", ["x", "y"], [[1.5, 0], [0, 1], [2, 0]]),
    ],
)
def test_the_task_follows_from_what_is_written(tmp_path, column, cells, task, classes, label):
    """Otherwise grades are learned as numbers, or findings as classes."""
    rows = "\n".join(f"{name},{cell}" for name, cell in zip("abc", cells, strict=True))
    found = encoded(tmp_path, f"path,{column}\n{rows}\n", "a.png", "b.png", "c.png")
    assert (found.task, found.classes) == (task, classes)
    np.testing.assert_array_equal(found.label, label)
    missing = [[cell == "" for cell in line.split(",")] for line in cells]
    np.testing.assert_array_equal(found.weight, 1 - np.array(missing))


def test_scans_without_a_row_are_unlabelled(tmp_path):
    """Otherwise they are dropped, or get the first class."""
    found = encoded(tmp_path, "path,label\na.png,x\nb.png,y\n", "a.png", "b.png", "c.png")
    np.testing.assert_array_equal(found.weight, [[1], [1], [0]])


def test_the_column_label_wins(tmp_path):
    """Otherwise a table with more to tell (age, scanner) cannot be used."""
    read = table(tmp_path, "path,label,scanner\na.png,x,GE\nb.png,y,Siemens\n", sources("a.png", "b.png"))
    assert read.columns == ("label",) and "scanner" in read.notes[0]
    with pytest.raises(InputError, match="finding, scanner.*'GE'"):
        encoded(tmp_path, "path,finding,scanner\na.png,1,GE\n", "a.png")


@pytest.mark.parametrize("name", ["s/1/x.png", "./s/1/x.png", "s\\1\\x.png", "/root/s/1/x.png", "s/1/x", "x"])
def test_a_scan_may_be_called_in_any_clear_way(tmp_path, name):
    """Otherwise people rewrite their tables."""
    assert set(table(tmp_path, f"path,label\n{name},a\n", sources("s/1/x.png", "s/2/y.png")).rows) == {
        "s/1/x.png"
    }


def test_a_series_is_called_by_its_folder_or_a_file_of_it(tmp_path):
    """Otherwise labels of DICOM volumes cannot be told."""
    series = [Source("ct/7", "dicom", tuple(str(tmp_path / f"ct/7/{k}.dcm") for k in range(3)))]
    for name in ("ct/7", "ct/7/", "ct/7/2.dcm"):
        assert set(table(tmp_path, f"path,label\n{name},a\n", series).rows) == {"ct/7"}


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("path,label\nno.png,a\nnone.png,b\na.png,c\n", "labels.csv names 2 scans not found.*'no.png'"),
        ("file,label\na.png,b\n", "file, label.*column path"),
        ("path,label\na.png,b\n./a.png,c\n", "names ./a.png .*twice, again in line 3"),
        ("path,label\na.png,b,c\n", "3 cells in line 2"),
        ("path,label,label\na.png,b,c\n", "'label' twice"),
        ("path,label\n", "no rows"),
        ("", "nothing"),
        ("path,split\na.png,dev\n", "split 'dev' in line 2"),
        ("path,mask\na.png,m.png\n", "line 2 the mask m.png"),
        ("path,modality\na.png,PETT\n", "PETT"),
    ],
)
def test_a_table_with_a_fault_ends_it(tmp_path, text, words):
    """Otherwise labels are silently lost, or given to the wrong scan."""
    with pytest.raises(InputError, match=words):
        table(tmp_path, text, sources("a.png"))


def test_rows_of_refused_files_are_no_fault(tmp_path):
    """Otherwise one broken file makes its table useless."""
    assert table(tmp_path, "path,label\nbad.dcm,a\na.png,b\n", sources("a.png"), {"bad.dcm"}).rows.keys() == {
        "a.png"
    }


@pytest.mark.parametrize(
    ("refused", "row"),
    [
        ("x/bad.nii.gz", "bad"),
        ("x/bad.nii.gz", "x/bad"),
        ("s2", "s2/7.dcm"),
        ("s2#echo-1", "s2"),
        ("x/bad.dcm", "{root}/x/bad.dcm"),
        ("x/bad.dcm", "x"),
    ],
)
def test_a_row_may_call_what_was_refused_as_it_may_call_a_scan(tmp_path, refused, row):
    """Otherwise one broken file, or a series that the rule left out, ends an ingest with "not found"."""
    row = row.format(root=tmp_path)
    told = table(tmp_path, f"path,label\n{row},a\na.png,b\n", sources("a.png"), {refused})
    assert told.rows.keys() == {"a.png"}
    with pytest.raises(InputError, match="1 scan not found.*first 'x/other.dcm'"):
        table(tmp_path, "path,label\nx/other.dcm,a\na.png,b\n", sources("a.png"), {refused})


@pytest.mark.parametrize(
    ("written", "words"),
    [
        (b"path;label\na.png;x\n", "parted by ';'; save it with commas"),
        (b"path\tlabel\na.png\tx\n", "parted by '.t'; save it with commas"),
        ("path,label\na.png,Müller\n".encode("latin-1"), "is not UTF-8.*save it as UTF-8"),
    ],
)
def test_what_a_spreadsheet_saved_otherwise_is_told_apart(tmp_path, written, words):
    """Otherwise a person is told that a column is missing which they see before them."""
    (tmp_path / "labels.csv").write_bytes(written)
    with pytest.raises(InputError, match=words):
        tables.from_table(tmp_path / "labels.csv", tmp_path, sources("a.png"), set())


def test_one_class_is_refused_when_labels_are_asked(tmp_path):
    """Otherwise a classifier is trained that can only say one thing."""
    with pytest.raises(InputError, match="labels.csv are of one class only, 'x'.*needs two"):
        encoded(tmp_path, "path,label\na.png,x\nb.png,x\n", "a.png", "b.png")
    with pytest.raises(InputError, match="gives no label"):
        encoded(tmp_path, "path,label\na.png,\n", "a.png")


def test_patients_come_from_a_pattern(tmp_path):
    """Otherwise scans of one person lie on both sides of a split though their names say whose they are."""
    found = sources("p01_left.png", "p01_right.png", "p02.png", "extra.png")
    read = known.with_patients(known.Annotations(), found, r"p(\d+)")
    assert [read.rows[s.id].patient if s.id in read.rows else "" for s in found] == ["01", "01", "02", ""]
    assert "3 of 4" in read.notes[0]
    with pytest.raises(InputError, match="matches no scan's path, such as 'p01_left.png'"):
        known.with_patients(known.Annotations(), found, r"patient(\d+)")
    with pytest.raises(InputError, match="not a regular expression"):
        known.with_patients(known.Annotations(), found, "(")


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ("path,pneumonia,patient_id", "column patient_id, which reads as whose a scan is; call it patient"),
        ("path,label,PatientID", "column PatientID, which reads as whose"),
        ("path,label,MRN", "column MRN, which reads as whose"),
        ("path,Label,site", "column Label; write label"),
        ("path,label,Patient", "column Patient; write patient"),
    ],
)
def test_a_column_that_is_all_but_one_that_means_something_is_refused(tmp_path, header, words):
    """Otherwise a hospital's number is learned and stored as a label, and its patients lie in two splits."""
    with pytest.raises(InputError, match=words):
        table(tmp_path, f"{header}\na.png,0,1001\nb.png,1,1002\n", sources("a.png", "b.png"))


def test_a_second_number_of_patients_may_stay_beside_what_is_named(tmp_path):
    (tmp_path / "labels.csv").write_text("path,sick,patient,mrn\na.png,0,x,1\nb.png,1,y,2\n")
    found = sources("a.png", "b.png")
    read = tables.from_table(tmp_path / "labels.csv", tmp_path, found, set(), learn=("sick",))
    assert read.columns == ("sick",) and read.rows["b.png"].patient == "y"


@pytest.mark.parametrize("missing", ["", "nan", "NaN", "NA", "N/A", "n/a", "<NA>", "NULL"])
def test_what_is_missing_is_no_class(tmp_path, missing):
    """As R, pandas, databases and BIDS write it; in small letters "na" is a word."""
    found = encoded(tmp_path, f"path,label\na.png,x\nb.png,{missing}\nc.png,na\n", "a.png", "b.png", "c.png")
    assert found.classes == ["na", "x"] and found.weight.ravel().tolist() == [1, 0, 1]


def test_whole_numbers_are_one_class_however_they_are_written(tmp_path):
    """pandas writes 1 as 1.0 as soon as a cell of the column is missing, and a set that grows had two classes then."""
    found = encoded(tmp_path, "path,label\na.png,1.0\nb.png,1\nc.png,0\n", "a.png", "b.png", "c.png")
    assert (found.task, found.classes) == ("multiclass", ["0", "1"]) and found.label.ravel().tolist() == [
        1,
        1,
        0,
    ]


def test_what_is_uncertain_is_not_a_number_to_learn(tmp_path):
    """Otherwise CheXpert's findings become a regression of -1, 0 and 1, without a word."""
    with pytest.raises(InputError, match="-1 beside 0 and 1 in 2 label columns, as CheXpert"):
        encoded(tmp_path, "path,a,b\na.png,1,-1\nb.png,0,\n", "a.png", "b.png")
    codes = "path,a,b\na.png,1,1\nb.png,0,99\nc.png,0,0\n"
    with pytest.raises(InputError, match="has 99 beside 0 and 1 in the label column b.*--task regression"):
        encoded(tmp_path, codes, "a.png", "b.png", "c.png")
    amounts = "path,age,weight\na.png,41,60\nb.png,0,99\n"
    assert encoded(tmp_path, amounts, "a.png", "b.png").task == "regression"


def test_a_name_that_several_scans_have_is_said_to_be_unclear(tmp_path):
    """Not to be missing, which sends a person looking for a file that is there."""
    with pytest.raises(
        InputError, match="names 000 in line 2, which may be any of A/000.png, B/000.png; write more"
    ):
        table(tmp_path, "id,label\n000,x\n", sources("A/000.png", "B/000.png"))


def test_numbers_that_are_missing_in_an_npz_are_no_labels(tmp_path):
    """Otherwise one NaN makes every number of a regression a class of its own, or is a label to learn."""
    for name, labels, task in (
        ("age", [[61.5], [np.nan], [40.0]], "regression"),
        ("two", [[1, np.nan]] * 3, "multilabel"),
    ):
        path = tmp_path / f"{name}.npz"
        np.savez(path, train_images=np.zeros((3, 4, 4), np.uint8), train_labels=labels)
        found, values = arrays.unpack(str(path), tmp_path / name)
        made = known.encode(known.from_npz(path, found, values), [s.id for s in found])
        assert made.task == task
        np.testing.assert_array_equal(made.weight, np.isfinite(labels))
        np.testing.assert_array_equal(made.label, np.nan_to_num(labels))


def test_whole_numbers_are_values_where_that_is_asked(tmp_path):
    """Otherwise nobody can predict an age in years, and 21 of them are classes without a word."""
    ages = [f"{k}.png" for k in range(22)]
    told = table(
        tmp_path, "path,age\n" + "".join(f"{k}.png,{min(k, 20) + 40}\n" for k in range(22)), sources(*ages)
    )
    classes, values = known.encode(told, ages), known.encode(known.as_regression(told), ages)
    assert classes.task == "multiclass" and "21 of 21 classes are numbers" in known.note(classes)
    assert (values.task, values.classes, known.note(values)) == ("regression", ["age"], "")
    np.testing.assert_array_equal(values.label[:3], [[40], [41], [42]])
    assert known.note(known.encode(told, ages[:20])) == "", "grades and counts are classes as often"
    words = table(tmp_path, "path,label\na.png,7\nb.png,young\n", sources("a.png", "b.png"))
    with pytest.raises(
        InputError, match="labels.csv gives the label 'young', which is no number; regression"
    ):
        known.encode(known.as_regression(words), ["a.png", "b.png"])
    with pytest.raises(InputError, match="--task regression is for labels"):
        known.as_regression(known.Annotations())
