"""What the files of MedMNIST hold, which they do not say themselves: modality and class names.

Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image classification",
Scientific Data 10, 41 (2023). The CT sets are 8-bit pictures, not Hounsfield units, so their modality is
``unknown`` here; so are the binary shapes (adrenal, vessel).
"""

import dataclasses
import re

_ORGANS = (
    "bladder", "femur-left", "femur-right", "heart", "kidney-left", "kidney-right",
    "liver", "lung-left", "lung-right", "pancreas", "spleen",
)


@dataclasses.dataclass(frozen=True)
class MedMNIST:
    """One set: its modality, and the names of its classes (or of its columns, if it is multi-label)."""

    modality: str
    classes: tuple[str, ...]


SETS = {
    "pneumoniamnist": MedMNIST("xray", ("normal", "pneumonia")),
    "chestmnist": MedMNIST("xray", (
        "atelectasis", "cardiomegaly", "effusion", "infiltration", "mass", "nodule", "pneumonia", "pneumothorax",
        "consolidation", "edema", "emphysema", "fibrosis", "pleural thickening", "hernia",
    )),
    "breastmnist": MedMNIST("ultrasound", ("malignant", "normal or benign")),
    "octmnist": MedMNIST("unknown", ("choroidal neovascularization", "diabetic macular edema", "drusen", "normal")),
    "organamnist": MedMNIST("unknown", _ORGANS),
    "organcmnist": MedMNIST("unknown", _ORGANS),
    "organsmnist": MedMNIST("unknown", _ORGANS),
    "organmnist3d": MedMNIST("unknown", (
        "liver", "kidney-right", "kidney-left", "femur-right", "femur-left", "bladder", "heart",
        "lung-right", "lung-left", "spleen", "pancreas",
    )),
    "nodulemnist3d": MedMNIST("unknown", ("benign", "malignant")),
    "adrenalmnist3d": MedMNIST("unknown", ("normal", "hyperplasia or mass")),
    "fracturemnist3d": MedMNIST("unknown", ("buckle rib", "nondisplaced rib", "displaced rib")),
    "vesselmnist3d": MedMNIST("unknown", ("vessel", "aneurysm")),
}


def known(stem: str) -> MedMNIST | None:
    """The set a file is, by its name without suffix and resolution (``pneumoniamnist_64``), or None."""
    return SETS.get(re.sub(r"_\d+$", "", stem.lower()))
