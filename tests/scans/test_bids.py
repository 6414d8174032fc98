"""BIDS folders: whose a scan is, when it was taken, and of which contrast it is."""

import nibabel as nib
import numpy as np
import pytest

from vitmed.errors import InputError
from vitmed.scans.find import find, survey
from vitmed.scans.how import How


def volume(path, shape=(4, 5, 6)):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(np.ones(shape, np.int16), np.eye(4)).to_filename(path)


def bids(folder, *names):
    """A BIDS folder of scans by ``sub[/ses] datatype suffix``."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "dataset_description.json").write_text('{"Name": "x", "BIDSVersion": "1.9.0"}')
    for name in names:
        who, kind, suffix = name.split()
        volume(folder / who / kind / f"{who.replace('/', '_')}_{suffix}.nii.gz")
    return folder


def test_subjects_sessions_and_suffixes_are_told(tmp_path):
    """Otherwise scans of one person lie on both sides of a split, or MR is stored as unknown."""
    bids(tmp_path, "sub-01/ses-0 anat T1w", "sub-01/ses-1 anat acq-fast_T1w", "sub-02 anat T1w")
    found = survey(tmp_path)
    told = found.told
    ids = [s.id for s in found.sources]
    assert ids == [
        "sub-01/ses-0/anat/sub-01_ses-0_T1w.nii.gz",
        "sub-01/ses-1/anat/sub-01_ses-1_acq-fast_T1w.nii.gz",
        "sub-02/anat/sub-02_T1w.nii.gz",
    ]
    assert [told.patients[i] for i in ids] == ["sub-01", "sub-01", "sub-02"]
    assert [told.timepoints[i] for i in ids] == ["0", "1", ""]
    assert {told.modalities[i] for i in ids} == {"mr"} and {told.views[i] for i in ids} == {"T1w"}
    assert "3 scans (T1w) of 2 subjects" in told.notes[0] and not found.refused


def test_without_its_description_it_is_said_that_subjects_are_no_patients(tmp_path):
    """Otherwise scans of one person lie on both sides of a split, and nobody is told."""
    bids(tmp_path, "sub-01 anat T1w", "sub-02 anat T1w")
    (tmp_path / "dataset_description.json").unlink()
    told = survey(tmp_path).told
    assert not told.layout and "--patient-pattern" in told.notes[0]
    (tmp_path / "sub-01").rename(tmp_path / "one")
    (tmp_path / "sub-02").rename(tmp_path / "two")
    assert not survey(tmp_path).told.notes, "a name alone is no layout"


def test_a_contrast_is_chosen_never_guessed(tmp_path):
    """Otherwise T1 and T2 are mixed, or stacked, without anybody having said so."""
    bids(tmp_path, "sub-01 anat T1w", "sub-01 anat FLAIR", "sub-02 anat T1w", "sub-02 ct ct")
    with pytest.raises(InputError, match=r"FLAIR \(1\), T1w \(2\), ct \(1\).*--bids-suffix T1w"):
        survey(tmp_path)
    found = survey(tmp_path, how=How(suffixes=("T1w", "FLAIR")))
    assert len(found.sources) == 3
    assert [r[1:] for r in found.refused] == [("not chosen by --bids-suffix", "ct")]
    assert set(survey(tmp_path, how=How(suffixes=("ct",))).told.modalities.values()) == {"ct"}
    with pytest.raises(InputError, match="--bids-suffix t1w.*T1w perhaps"):
        survey(tmp_path, how=How(suffixes=("t1w",)))
    bids(tmp_path / "none")
    (tmp_path / "none" / "dataset_description.json").unlink()
    volume(tmp_path / "none" / "x.nii")
    with pytest.raises(InputError, match="is none: no dataset_description.json"):
        survey(tmp_path / "none", how=How(suffixes=("T1w",)))


def test_what_is_no_scan_is_refused_by_its_reason(tmp_path):
    """Otherwise maps, phases and what others computed are learned as scans."""
    bids(
        tmp_path,
        "sub-01 anat T1w",
        "sub-01 anat T1map",
        "sub-01 anat part-phase_T1w",
        "sub-01 fmap magnitude1",
        "sub-01 pet pet",
    )
    bids(tmp_path / "derivatives" / "prep", "sub-01 anat desc-preproc_T1w", "sub-02 anat T1w")
    volume(tmp_path / "sourcedata" / "x.nii.gz")
    volume(tmp_path / "sub-01" / "anat" / "sub-02_T1w.nii.gz")
    volume(tmp_path / "sub-01" / "sub-01_T1w.nii.gz")
    (tmp_path / "sub-01" / "anat" / "sub-01_T1w.json").write_text("{}")
    (tmp_path / "sub-01" / "anat" / "sub-01_T1w.dcm").write_bytes(b"x")
    found = survey(tmp_path)
    assert [s.id for s in found.sources] == ["sub-01/anat/sub-01_T1w.nii.gz"]
    assert {name.removeprefix("sub-01/"): reason for name, reason, _ in found.refused} == {
        "anat/sub-01_T1map.nii.gz": "of a BIDS suffix that vitmed does not take",
        "anat/sub-01_part-phase_T1w.nii.gz": "phase, not magnitude",
        "fmap/sub-01_magnitude1.nii.gz": "field map, not a scan",
        "pet/sub-01_pet.nii.gz": "of a BIDS suffix that vitmed does not take",
        "derivatives/prep": "derived from the scans",
        "sourcedata": "not a scan in the BIDS layout",
        "anat/sub-02_T1w.nii.gz": "named for another subject or session",
        "sub-01_T1w.nii.gz": "not where BIDS has scans",
        "anat/sub-01_T1w.dcm": "not NIfTI, as BIDS has scans",
    }
    assert found.told.patients["sub-01/pet/sub-01_pet.nii.gz"] == "sub-01"


def test_volumes_in_time_are_asked_for(tmp_path):
    """Otherwise a series in time passes for channels, or for one scan."""
    bids(tmp_path, "sub-01 anat T1w")
    volume(tmp_path / "sub-01" / "func" / "sub-01_task-rest_bold.nii.gz", (4, 5, 6, 3))
    found, refused = find(tmp_path, how=How(suffixes=("bold",)))
    assert not found and "several volumes in one file" in {r[1] for r in refused}
    times = survey(tmp_path, how=How(suffixes=("bold",), frames="each"))
    assert len(times.sources) == 3 and {times.told.patients[s.id] for s in times.sources} == {"sub-01"}
