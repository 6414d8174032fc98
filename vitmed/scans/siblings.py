"""Masks by the names of the scans beside them: ``12_mask.png`` is that of ``12.png`` in the same folder."""

import re
from pathlib import PurePosixPath

from vitmed import words
from vitmed.scans.kinds import kind_of
from vitmed.scans.layout import Mask, Names, Told
from vitmed.scans.scan import Refusals

# As they are called in practice, several of one scan by a number (BUSI: "benign (4)_mask_1.png").
_NAMED = re.compile(
    r"^(?P<scan>.+?)[ _.-](?:mask|seg|segmentation|label|labels|labelmap|gt)(?:[ _-]?\d+)?$", re.IGNORECASE
)
_OF_MASKS = {"labels", "label", "masks", "mask", "segmentations", "segmentation", "segs", "seg"}
_OF_SCANS = {"images", "image", "imgs", "scans", "scan", "volumes"}
_KINDS = {"image", "array", "nifti", "itk"}


def match(names: Names) -> tuple[Told, Refusals, Names]:
    """The masks that lie beside their scans, which are taken out of ``names``.

    A file called as a mask is one where the scan that it names is there. Where some are, the rest are refused: they would
    be learned from as pictures. Where none is, so are those beside scans whose names begin as theirs do (``p1_t1``,
    ``p1_t2`` and ``p1_seg``, as in BraTS), of which nobody has said whose they are; all others are scans, whatever they
    are called. So is what a mask is named after.

    Returns:
        What is told, what is refused, and the files that are taken as masks, with their names.
    """
    places = {
        path: (str(PurePosixPath(n).parent), _stem(n)) for path, n in names.items() if kind_of(path) in _KINDS
    }
    found = ((path, folder, _NAMED.match(stem)) for path, (folder, stem) in places.items())
    called = {path: (folder, named["scan"]) for path, folder, named in found if named}
    wanted = set(called.values())
    scans: dict[tuple[str, str], list[str]] = {}
    for path, place in places.items():
        if place in wanted:
            scans.setdefault(place, []).append(path)
    masks: dict[str, list[str]] = {}
    refused: Refusals = []
    for path, scan in called.items():
        beside = scans.get(scan, [])
        if len(beside) == 1:
            masks.setdefault(names[beside[0]], []).append(path)
        elif beside:
            told = " and ".join(sorted(names[one] for one in beside))
            refused.append((names[path], "mask of several scans", told))
        elif places[path] not in wanted:
            refused.append((names[path], "mask without a scan", "no scan of that name lies beside it"))
    apart = _apart({path: place for path, place in places.items() if path not in called}, names)
    if not masks:
        begun = {
            (folder, stem[: part.start()])
            for path, (folder, stem) in places.items()
            if path not in called
            for part in re.finditer(r"[ _.-]", stem)
        }
        unsaid = [path for path, scan in called.items() if scan in begun]
        why = "scans whose names begin so lie beside it; name the mask of each in a manifest"
        return Told(), apart + [(names.pop(path), "mask without a scan", why) for path in unsaid], {}
    taken = {path: names[path] for files in masks.values() for path in files}
    scans_of_their_own = {
        path for path, scan in called.items() if scan not in scans and places[path] in wanted
    }
    for path in called.keys() - scans_of_their_own:
        del names[path]
    note = (
        f"{words.plural(len(taken), 'file called as a mask is', 'files called as masks are')} taken (_mask, _seg, _label) "
        f"as those of the {words.plural(len(masks), 'scan')} beside them."
    )
    told = Told(masks={scan: Mask(tuple(sorted(files))) for scan, files in masks.items()}, notes=(note,))
    return told, refused + apart, taken


def _apart(places: dict[str, tuple[str, str]], names: Names) -> Refusals:
    """Files of a folder of masks beside a folder of scans of the same names, which are taken out of ``names``.

    Whether each is the mask of its namesake nobody has said; that it is no scan its folder says.
    """
    folders: dict[str, set[str]] = {}
    for folder, stem in places.values():
        folders.setdefault(folder, set()).add(stem)
    refused: Refusals = []
    for path, (folder, stem) in places.items():
        here = PurePosixPath(folder)
        if here.name.lower() not in _OF_MASKS or path not in names:
            continue
        for beside in (one for one in folders if PurePosixPath(one).parent == here.parent and one != folder):
            if PurePosixPath(beside).name.lower() in _OF_SCANS and stem in folders[beside]:
                why = f"{beside} holds a scan of its name; name the mask of each in a manifest with the columns path and mask"
                refused.append((names.pop(path), "mask without a scan", why))
                break
    return refused


def _stem(name: str) -> str:
    """The name of a file without folder and suffix, ``.nii.gz`` being one."""
    last = PurePosixPath(name).name
    return re.sub(r"(\.nii)?\.[^.]+$", "", last)
