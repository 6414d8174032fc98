"""BIDS folders: ``sub-01[/ses-1]/anat/sub-01[_ses-1]_T1w.nii.gz`` beside a ``dataset_description.json``.

The Brain Imaging Data Structure, https://bids-specification.readthedocs.io (Gorgolewski et al., Scientific Data 3,
160044, 2016). A subject is a patient, a session a timepoint, and the suffix, the last word of a name, the contrast.
CT is a proposal to BIDS (BEP024) that keeps its form.
"""

import os
from collections import Counter
from difflib import get_close_matches
from pathlib import PurePosixPath

from vitmed import words
from vitmed.errors import InputError
from vitmed.scans.how import How
from vitmed.scans.kinds import in_file, is_beside, kind_of
from vitmed.scans.layout import Names, Survey, Told
from vitmed.scans.scan import Refusals, Refused, Source

NAME = "BIDS folder"
_MR = "T1w T2w T2starw PDw PDT2 FLAIR inplaneT1 inplaneT2 UNIT1 angio bold cbv sbref dwi asl m0scan".split()
MODALITIES = {**dict.fromkeys(_MR, "mr"), "ct": "ct"}  # of each suffix
_MAGNITUDE = ("", "mag")
UNDESCRIBED = (
    "Files are named sub-XX as BIDS has it, but no dataset_description.json lies beside their folders, so the subjects "
    "are not taken for patients; add that file, or give --patient-pattern 'sub-([A-Za-z0-9]+)'."
)


def recognise(names: Names) -> list[str]:
    """The outermost folders, by name ("." the source itself), of a ``dataset_description.json`` beside ``sub-*/``."""
    tables, subjects = set(), set()
    for name in names.values():
        path = PurePosixPath(name)
        if path.name == "dataset_description.json":
            tables.add(path.parent)
        subjects.update(above.parent for above in path.parents if above.name.startswith("sub-"))
    both = tables & subjects
    return sorted(str(folder) for folder in both if both.isdisjoint(folder.parents))


def undescribed(names: Names) -> bool:
    """Whether files are called as BIDS has it, ``sub-XX/.../sub-XX_*.nii.gz``, without the table that says so."""
    for path, name in names.items():
        inside = PurePosixPath(name)
        subject = inside.name.split("_")[0]
        if subject.startswith("sub-") and subject in inside.parts[:-1] and kind_of(path) == "nifti":
            return True
    return False


def survey(names: Names, folder: str, how: How) -> Survey:
    """The scans of one BIDS folder of the contrast that a person chose, with their subjects and sessions.

    Args:
        names: the files under it.
        folder: its name, as ``recognise`` gives it.
        how: ``suffixes`` chooses the contrasts, each a scan of its own; may be () where there is only one.

    Raises:
        InputError: several contrasts and none chosen, or one chosen of this folder that is not there.
    """
    root = PurePosixPath(folder)
    refused: Refusals = []
    outside: Counter = Counter()
    patients: dict[str, str] = {}
    found: list[tuple[str, str, str, str]] = []  # path, name, suffix, session
    for path, name in sorted(names.items()):
        inside = PurePosixPath(name).relative_to(root).parts
        if is_beside(path) or len(inside) == 1 and kind_of(path) is None:
            continue
        if not inside[0].startswith("sub-"):
            outside["/".join(inside[: 2 if inside[0] == "derivatives" else 1])] += 1
            continue
        patients[name] = inside[0]
        try:
            found.append((path, name, *_suffix(path, inside)))
        except Refused as fault:
            refused.append((name, fault.reason, fault.detail))
    for what, n in sorted(outside.items()):
        derived = what.startswith("derivatives/")
        reason = "derived from the scans" if derived else "not a scan in the BIDS layout"
        refused.append((str(root / what), reason, words.plural(n, "file")))
    taken = _chosen(Counter(suffix for _, _, suffix, _ in found), how, folder)
    sources: list[Source] = []
    told: dict[str, dict[str, str]] = {"timepoints": {}, "views": {}, "modalities": {}}
    for path, name, suffix, session in found:
        if suffix not in taken:
            refused.append((name, "not chosen by --bids-suffix", suffix))
            continue
        try:
            scans = in_file(path, name, "nifti", how)
        except Refused as fault:
            refused.append((name, fault.reason, fault.detail))
            continue
        sources += scans
        for scan in scans:
            patients[scan.id] = patients[name]
            told["timepoints"][scan.id] = session
            told["views"][scan.id] = suffix
            told["modalities"][scan.id] = MODALITIES[suffix]
    people = len({patients[s.id] for s in sources})
    note = (
        f"Taken as a {NAME}: {words.plural(len(sources), 'scan')} ({', '.join(taken)}) of "
        f"{words.plural(people, 'subject, who is the patient', 'subjects, who are the patients')}; "
        "sessions are timepoints, and the suffix is the view."
    )
    return Survey(sources, refused, Told(layout=NAME, patients=patients, notes=(note,), **told))


def _suffix(path: str, inside: tuple[str, ...]) -> tuple[str, str]:
    """The suffix and the session of a file under ``sub-XX``.

    Raises:
        Refused: it is no scan, or not called by where it lies.
    """
    if kind_of(path) != "nifti":
        raise Refused("not NIfTI, as BIDS has scans", os.path.splitext(inside[-1])[1])
    session = inside[1] if len(inside) > 1 and inside[1].startswith("ses-") else ""
    if len(inside) != (4 if session else 3):
        raise Refused("not where BIDS has scans", "sub-XX[/ses-YY]/anat/ was expected")
    words = inside[-1].removesuffix(".gz").removesuffix(".nii").split("_")
    entities = dict(word.split("-", 1) for word in words[:-1] if "-" in word)
    mine = {"sub": inside[0].removeprefix("sub-"), "ses": session.removeprefix("ses-")}
    if {key: entities.get(key, "") for key in mine} != mine:
        raise Refused("named for another subject or session", "than the folder it lies in")
    suffix = words[-1]
    if inside[-2] == "fmap":
        raise Refused("field map, not a scan", suffix)
    if suffix not in MODALITIES:
        raise Refused("of a BIDS suffix that vitmed does not take", suffix)
    if entities.get("part", "") not in _MAGNITUDE:
        raise Refused("phase, not magnitude", f"part-{entities['part']}")
    return suffix, session.removeprefix("ses-")


def _chosen(counts: Counter, how: How, folder: str) -> tuple[str, ...]:
    suffixes = how.suffixes
    if how.elsewhere:
        return tuple(suffix for suffix in suffixes if suffix in counts)
    held = ", ".join(f"{suffix} ({n})" for suffix, n in sorted(counts.items()))
    for suffix in suffixes:
        if suffix not in counts:
            near = get_close_matches(suffix, counts, 1, 0.3)
            hint = f"; {near[0]} perhaps?" if near else ""
            raise InputError(f"--bids-suffix {suffix}: the {NAME} holds {held or 'no scan'}{hint}")
    if not suffixes and len(counts) > 1:
        first = max(sorted(counts), key=lambda s: counts[s])
        raise InputError(
            f"the {NAME} holds several contrasts, {held}; say which to take, such as --bids-suffix {first} (several "
            "with commas between: each is a scan of its own)"
        )
    return suffixes or tuple(counts)
