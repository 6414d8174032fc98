"""Along which axes a scan may be mirrored, by what it is: a mirror image must be one that some patient could have.

A config's ``flip`` says which axes are mirrored; here is said what that does to anatomy. Left and right of a volume are
a matter of choice: its organs change sides as they do in situs inversus, which is no harm to a task without sides. Slices
of CT and MR, and volumes whose files tell no geometry, lie in ways that nobody told, and are not judged.
"""

import dataclasses
from typing import Any

from vitmed.data.augment import AugmentConfig

# What is swapped along the axes (array order) that are not to be mirrored, by modality and dimension.
_SWAPPED = {
    ("xray", 2): {
        0: "head and feet",
        1: "left and right, and with them the heart's side and the side of every finding",
    },
    ("ultrasound", 2): {0: "near and far of the probe, from which shadows and the loss of echoes run"},
    ("ct", 3): {0: "head and feet", 1: "front and back"},
    ("mr", 3): {0: "head and feet", 1: "front and back"},
}


def doubts(sections: dict[str, Any], sheet: dict) -> list[str]:
    """A sentence for each axis that a config mirrors though no patient is like that.

    Args:
        sections: sections of a config by their dotted keys; looked into are those that augment, and their own fields.
        sheet: datasheet of the scans.
    """
    dimension = len(sheet["size"])
    told = dimension == 2 or bool((sheet.get("spacings") or {}).get("axes"))
    swapped = _SWAPPED.get((sheet["modality"], dimension), {}) if told else {}
    return [
        f"{key}.flip mirrors axis {axis} of {sheet['modality']} scans, which swaps {swapped[axis]}; it is done as the config "
        "says, but leave the axis out unless what is learned has nothing to do with that"
        for key, section in _augmenting(sections)
        for axis in section.flip
        if axis in swapped
    ]


def _augmenting(sections: dict[str, Any]) -> list[tuple[str, AugmentConfig]]:
    inside = {
        f"{key}.{field.name}": getattr(section, field.name)
        for key, section in sections.items()
        for field in dataclasses.fields(section)
    }
    return [(key, held) for key, held in (sections | inside).items() if isinstance(held, AugmentConfig)]
