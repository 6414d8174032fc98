"""nnU-Net's raw folders: which files are whose channels and masks, and what dataset.json says of them."""

import json
import shutil

import nibabel as nib
import numpy as np
import pytest

from vitmed.errors import InputError
from vitmed.scans import nnunet
from vitmed.scans.find import survey
from vitmed.scans.read import read
from vitmed.scans.scan import Refused

V2 = {
    "channel_names": {"0": "T1w", "1": "FLAIR"},
    "labels": {"background": 0, "oedema": 1, "whole tumour": [1, 2], "ignore": 3},
    "file_ending": ".nii.gz",
}


def volume(path, value, shape=(4, 5, 6), affine=None):
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.Nifti1Image(np.full(shape, value, np.int16), np.eye(4) if affine is None else affine).to_filename(
        path
    )


def raw(folder, table=V2, cases=("a_1", "b"), channels=2, tests=("t",)):
    """A raw folder whose channel c of case k is filled with 10 k + c."""
    for part, held in (("imagesTr", cases), ("imagesTs", tests)):
        for k, case in enumerate(held):
            for c in range(channels):
                volume(folder / part / f"{case}_{c:04d}.nii.gz", 10 * k + c)
    for case in cases:
        volume(folder / "labelsTr" / f"{case}.nii.gz", 1)
    (folder / "dataset.json").write_text(json.dumps(table))
    return folder


def test_a_raw_folder_is_taken_apart(tmp_path):
    """Otherwise channels become scans of their own, and masks are learned as scans."""
    found = survey(raw(tmp_path))
    assert [s.id for s in found.sources] == ["imagesTr/a_1", "imagesTr/b", "imagesTs/t"] and not found.refused
    assert {i: (m.files[0].rsplit("/", 2)[1:], m.ignore) for i, m in found.told.masks.items()} == {
        "imagesTr/a_1": (["labelsTr", "a_1.nii.gz"], 3),
        "imagesTr/b": (["labelsTr", "b.nii.gz"], 3),
    }
    assert found.told.structures == {"oedema": (1,), "whole tumour": (1, 2)}
    assert set(found.told.modalities.values()) == {"mr"}
    notes = " ".join(found.told.notes)
    assert "2 cases of imagesTr" in notes and "imagesTs" in notes and "not the test split" in notes
    array = read(found.sources[1]).array
    assert array.shape == (6, 5, 4, 2) and (array[0, 0, 0] == [10, 11]).all()


def test_a_raw_folder_may_lie_below(tmp_path):
    """Otherwise whoever gives nnUNet_raw itself, or a zip of the folder, has masks learned as scans."""
    raw(tmp_path / "Dataset004_X", tests=())
    volume(tmp_path / "beside.nii.gz", 1)
    found = survey(tmp_path)
    assert [s.id for s in found.sources] == [
        "Dataset004_X/imagesTr/a_1",
        "Dataset004_X/imagesTr/b",
        "beside.nii.gz",
    ]
    raw(tmp_path / "Dataset005_Y")
    with pytest.raises(InputError, match="Dataset004_X and Dataset005_Y.*one by one"):
        survey(tmp_path)


def test_the_decathlon_has_one_file_a_case(tmp_path):
    """Otherwise the Decathlon's sets, which nnU-Net converts, are refused file by file."""
    table = {"modality": {"0": "MRI"}, "labels": {"0": "background", "1": "Anterior", "2": "Posterior"}}
    for case in ("h_001", "h_002"):
        volume(tmp_path / "imagesTr" / f"{case}.nii.gz", 1)
        volume(tmp_path / "labelsTr" / f"{case}.nii.gz", 1)
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    found = survey(tmp_path)
    assert [s.id for s in found.sources] == ["imagesTr/h_001", "imagesTr/h_002"] and len(
        found.told.masks
    ) == 2
    assert found.told.structures == {"Anterior": (1,), "Posterior": (2,)}
    table["modality"] = {"0": "T2", "1": "ADC"}
    (tmp_path / "dataset.json").write_text(json.dumps(table))
    volume(tmp_path / "imagesTr" / "h_001.nii.gz", 1, (4, 5, 6, 2))
    found = survey(tmp_path)
    assert read(found.sources[0]).array.shape == (6, 5, 4, 2)
    assert found.told.modalities == {} and "--modality" in found.told.notes[-1]


@pytest.mark.parametrize(
    ("names", "modality"),
    [
        (["CT"], "ct"),
        (["T1w", "FLAIR"], "mr"),
        (["MRI"], "mr"),
        (["CT", "PET"], None),
        (["CT", "T1w"], None),
        (["noNorm"], None),
        (["echo"], None),
        (["PD"], None),
        (["0"], None),
    ],
)
def test_a_modality_is_told_or_not(names, modality):
    """Otherwise a PET or a map is normalised as if it were something else."""
    assert nnunet.modality_of(names) == modality


def test_faults_of_cases_are_told(tmp_path):
    """Otherwise a case is fed with another's channels, or is gone without a word."""
    folder = raw(tmp_path)
    (folder / "imagesTr" / "b_0001.nii.gz").unlink()
    volume(folder / "imagesTr" / "odd.nii.gz", 1)
    volume(folder / "labelsTr" / "gone.nii.gz", 1)
    volume(folder / "labelsTs" / "t.nii.gz", 1)
    volume(folder / "predictions" / "t.nii.gz", 1)
    found = survey(folder)
    assert [s.id for s in found.sources] == ["imagesTr/a_1", "imagesTs/t"]
    assert {name: reason for name, reason, _ in found.refused} == {
        "imagesTr/b": "other channels than dataset.json names",
        "imagesTr/odd.nii.gz": "not named as nnU-Net names images",
        "labelsTr/gone.nii.gz": "label without an image",
        "labelsTr/b.nii.gz": "label without an image",
        "labelsTs/t.nii.gz": "labels of imagesTs",
        "predictions/t.nii.gz": "not part of the nnU-Net layout",
    }


@pytest.mark.parametrize(
    ("shape", "shift", "reason"),
    [
        ((4, 5, 7), 0.0, "channels of different sizes"),
        ((4, 5, 6), 0.5, "channels that lie elsewhere"),
        ((4, 5, 6, 2), 0.0, "several channels|not a volume of one contrast"),
    ],
)
def test_channels_must_share_the_grid(tmp_path, shape, shift, reason):
    """Otherwise one channel's voxels are stacked on another place of the body."""
    folder = raw(tmp_path, tests=())
    affine = np.eye(4)
    affine[2, 3] = shift
    volume(folder / "imagesTr" / "b_0001.nii.gz", 1, shape, affine)
    with pytest.raises(Refused, match=reason):
        read(survey(folder).sources[1])


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"channel_names": None}, "channel_names"),
        ({"channel_names": {"1": "CT"}}, "numbered from 0"),
        ({"labels": {"liver": "one", "x": 1}}, "'liver' the value 'one'"),
        ({"labels": {"liver": 300}}, "from 0 to 254"),
        ({"labels": {"0": "a", "1": "a"}}, "'a' to several"),
        ({"labels": {"liver": True}}, "from 0 to 254"),
        ({"labels": {"liver": 1, "spleen": 1}}, "'liver' and 'spleen' the same value 1"),
        ({"file_ending": 3}, "file_ending 3"),
        ({"dataset": {}}, "manifest"),
    ],
)
def test_a_dataset_json_with_a_fault_ends_it(tmp_path, change, words):
    """Otherwise masks mean what nobody said."""
    with pytest.raises(InputError, match=f"dataset.json.*{words}"):
        survey(raw(tmp_path, {**V2, **change}))


def test_a_broken_dataset_json_ends_it(tmp_path):
    """Otherwise the folder falls back to be scans without a layout, masks among them."""
    raw(tmp_path)
    (tmp_path / "dataset.json").write_text("{")
    with pytest.raises(InputError, match="no readable JSON"):
        survey(tmp_path)


@pytest.mark.parametrize("gone", ["dataset.json", "imagesTr"])
def test_masks_are_not_taken_for_scans(tmp_path, gone):
    """Otherwise a raw folder that was copied by halves becomes a dataset of masks."""
    raw(tmp_path)
    shutil.rmtree(tmp_path / gone) if gone == "imagesTr" else (tmp_path / gone).unlink()
    with pytest.raises(InputError, match=f"labelsTr of . holds masks.* no {gone} lies beside it"):
        survey(tmp_path)
