"""What the files of MedMNIST hold, which they do not say themselves: modality and class names.

Yang et al., "MedMNIST v2 - A large-scale lightweight benchmark for 2D and 3D biomedical image
classification", Scientific Data 10, 41 (2023). The CT sets are 8-bit pictures, not Hounsfield units, so their
modality is ``unknown`` here; so are the binary shapes (adrenal, vessel).
"""

import dataclasses
import re


@dataclasses.dataclass(frozen=True)
class MedMNIST:
    """One set: its modality, and the names of its classes (or of its columns, if it is multi-label)."""

    modality: str
    classes: tuple[str, ...]


def _set(modality: str, classes: str) -> MedMNIST:
    return MedMNIST(modality, tuple(classes.split(" | ")))


_ORGANS = _set(
    "unknown",
    "bladder | femur-left | femur-right | heart | kidney-left | kidney-right | liver | lung-left | "
    "lung-right | pancreas | spleen",
)

SETS = {
    "pathmnist": _set(
        "unknown",
        "adipose | background | debris | lymphocytes | mucus | smooth muscle | normal colon mucosa | "
        "cancer-associated stroma | colorectal adenocarcinoma epithelium",
    ),
    "dermamnist": _set(
        "unknown",
        "actinic keratoses and intraepithelial carcinoma | basal cell carcinoma | benign keratosis-like lesions | "
        "dermatofibroma | melanoma | melanocytic nevi | vascular lesions",
    ),
    "retinamnist": _set("unknown", "grade 0 | grade 1 | grade 2 | grade 3 | grade 4"),
    "bloodmnist": _set(
        "unknown",
        "basophil | eosinophil | erythroblast | immature granulocytes | lymphocyte | monocyte | neutrophil | platelet",
    ),
    "tissuemnist": _set(
        "unknown",
        "collecting duct or connecting tubule | distal convoluted tubule | glomerular endothelial cells | "
        "interstitial endothelial cells | leukocytes | podocytes | proximal tubule segments | thick ascending limb",
    ),
    "synapsemnist3d": _set("unknown", "inhibitory synapse | excitatory synapse"),
    "pneumoniamnist": _set("xray", "normal | pneumonia"),
    "chestmnist": _set(
        "xray",
        "atelectasis | cardiomegaly | effusion | infiltration | mass | nodule | pneumonia | pneumothorax | "
        "consolidation | edema | emphysema | fibrosis | pleural thickening | hernia",
    ),
    "breastmnist": _set("ultrasound", "malignant | normal or benign"),
    "octmnist": _set("unknown", "choroidal neovascularization | diabetic macular edema | drusen | normal"),
    "organamnist": _ORGANS,
    "organcmnist": _ORGANS,
    "organsmnist": _ORGANS,
    "organmnist3d": _set(
        "unknown",
        "liver | kidney-right | kidney-left | femur-right | femur-left | bladder | heart | lung-right | "
        "lung-left | spleen | pancreas",
    ),
    "nodulemnist3d": _set("unknown", "benign | malignant"),
    "adrenalmnist3d": _set("unknown", "normal | hyperplasia or mass"),
    "fracturemnist3d": _set("unknown", "buckle rib | nondisplaced rib | displaced rib"),
    "vesselmnist3d": _set("unknown", "vessel | aneurysm"),
}


def known(stem: str) -> MedMNIST | None:
    """The set a file is, by its name without suffix and resolution (``pneumoniamnist_64``), or None."""
    return SETS.get(re.sub(r"_\d+$", "", stem.lower()))
