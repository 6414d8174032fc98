"""Masks by the names of the scans beside them: ``12_mask.png`` is that of ``12.png`` in the same folder."""

import re
from pathlib import PurePosixPath

from vitmed.scans.kinds import kind_of
from vitmed.scans.layout import Mask, Names, Told
from vitmed.scans.scan import Refusals

# As they are called in practice, several of one scan by a number (BUSI: "benign (4)_mask_1.png").
_NAMED = re.compile(
    r"^(?P<scan>.+?)[ _.-](?:mask|seg|segmentation|label|labels|labelmap|gt)(?:[ _-]?\d+)?$", re.IGNORECASE
)
_KINDS = {"image", "array", "nifti", "itk"}


def match(names: Names) -> tuple[Told, Refusals]:
    """The masks that lie beside their scans, which are taken out of ``names``.

    A file called as a mask is one where the scan that it names is there. Where some are, the rest are refused: they would
    be learned from as pictures. Where none is, all are scans, whatever they are called.
    """
    scans: dict[tuple[str, str], list[str]] = {}
    called: dict[str, tuple[str, str]] = {}
    for path, name in names.items():
        if kind_of(path) not in _KINDS:
            continue
        folder, stem = str(PurePosixPath(name).parent), _stem(name)
        scans.setdefault((folder, stem), []).append(name)
        if named := _NAMED.match(stem):
            called[path] = folder, named["scan"]
    masks: dict[str, list[str]] = {}
    refused: Refusals = []
    for path, scan in called.items():
        beside = scans.get(scan, [])
        if len(beside) == 1:
            masks.setdefault(beside[0], []).append(path)
        elif beside:
            refused.append((names[path], "mask of several scans", " and ".join(sorted(beside))))
    if not masks:
        return Told(), []
    alone = [path for path, scan in called.items() if scan not in scans]
    refused += [(names[path], "mask without a scan", "no scan of that name lies beside it") for path in alone]
    for path in called:
        del names[path]
    count = sum(map(len, masks.values()))
    note = (
        f"{count} file{'s' * (count > 1)} called as masks (_mask, _seg, _label) {'are' if count > 1 else 'is'} taken as those of "
        f"the {len(masks)} scan{'s' * (len(masks) > 1)} beside them."
    )
    return Told(
        masks={scan: Mask(tuple(sorted(files))) for scan, files in masks.items()}, notes=(note,)
    ), refused


def _stem(name: str) -> str:
    """The name of a file without folder and suffix, ``.nii.gz`` being one."""
    last = PurePosixPath(name).name
    return re.sub(r"(\.nii)?\.[^.]+$", "", last)
