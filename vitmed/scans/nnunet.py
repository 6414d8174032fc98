"""The raw folders of nnU-Net, and those of the Medical Segmentation Decathlon, which it grew from.

``dataset.json`` beside ``imagesTr/CASE_0000.nii.gz`` (``_0001`` and on: further channels), ``labelsTr/CASE.nii.gz``
and ``imagesTs``. nnU-Net v2: https://github.com/MIC-DKFZ/nnUNet/blob/master/documentation/dataset_format.md; v1 and
the Decathlon (Antonelli et al., Nature Communications 13, 4128, 2022) say ``modality`` where v2 says
``channel_names``, and the Decathlon has all channels of a case in one file, ``imagesTr/CASE.nii.gz``.
"""

import json
import os
import re
from collections import Counter, defaultdict
from pathlib import PurePosixPath

from vitmed.errors import InputError
from vitmed.scans.how import How
from vitmed.scans.kinds import kind_of
from vitmed.scans.layout import UNMARKED, Mask, Names, Survey, Told
from vitmed.scans.recipe import modality as canonical_modality
from vitmed.scans.scan import Refusals, Source

NAME = "nnU-Net raw folder"
_IMAGES = ("imagesTr", "imagesTs")
_FOLDERS = (*_IMAGES, "labelsTr", "labelsTs")
# Contrasts that only MR has. Names of other things (ADC and CBF are maps, "noNorm" is a way to normalise) and
# names that are short for several things (PD, C) are left to the person.
_MR = set("t1 t1w t1c t1ce t1gd t1n t1post t2 t2w t2f flair t2flair t2-flair t2_flair pdw dwi".split())
_AMBIGUOUS = {"echo", "unknown", "", "cat", "rg"}


def recognise(names: Names) -> list[str]:
    """The folders, by name ("." the source itself), that hold a ``dataset.json`` beside ``imagesTr``.

    Raises:
        InputError: ``labelsTr`` without the two, whose masks would else be taken for scans.
    """
    tables = {str(PurePosixPath(name).parent) for name in names.values() if _last(name) == "dataset.json"}
    images = {
        str(PurePosixPath(name).parent.parent)
        for name in names.values()
        if PurePosixPath(name).parent.name == "imagesTr"
    }
    alone = {
        str(PurePosixPath(name).parent.parent)
        for path, name in names.items()
        if PurePosixPath(name).parent.name == "labelsTr" and kind_of(path) is not None
    } - (tables & images)
    if alone:
        folder = min(alone)
        lacks = " and no ".join(
            n for n, held in (("dataset.json", tables), ("imagesTr", images)) if folder not in held
        )
        raise InputError(
            f"labelsTr of {folder} holds masks, as nnU-Net has it, but no {lacks} lies beside it; add what is missing, "
            "or give a manifest CSV with the columns path and mask"
        )
    return sorted(tables & images)


def survey(names: Names, folder: str, how: How) -> Survey:
    """The scans of one raw folder, with their masks.

    A case is a scan called ``imagesTr/CASE``; its channels are stacked. Cases of ``imagesTs`` are scans like the
    others, without a mask: which split they come to is not said by where they lie.

    Args:
        names: the files under it.
        folder: its name, as ``recognise`` gives it.
        how: not asked; all channels are taken.

    Raises:
        InputError: a ``dataset.json`` that is none.
    """
    root = PurePosixPath(folder)
    table = next(path for path, name in names.items() if PurePosixPath(name) == root / "dataset.json")
    content = _read(table)
    channels = _channels(content, table)
    values, ignore = _structures(content.get("labels"), table)
    ending = content.get("file_ending")
    if ending is not None and not (isinstance(ending, str) and ending.startswith(".")):
        raise InputError(f'{table} says file_ending {ending!r}; such as ".nii.gz" was expected')
    files: dict[str, dict[str, tuple[str, str]]] = {f: {} for f in _FOLDERS}  # file name: (path, name)
    refused: Refusals = []
    for path, name in sorted(names.items()):
        inside = PurePosixPath(name).relative_to(root).parts
        if len(inside) == 2 and inside[0] in _FOLDERS:
            files[inside[0]][inside[1]] = (path, name)
        elif kind_of(path) is not None:
            refused.append((name, "not part of the nnU-Net layout", f"only {', '.join(_FOLDERS[:3])} are"))
    ending = ending or _ending(files["imagesTr"], table)
    pairs = tuple((name, value) for name, held in values.items() for value in held)
    labels = {n[: -len(ending)]: f for n, f in files["labelsTr"].items() if n.endswith(ending)}
    decathlon = not any(re.search(r"_\d{4}$", n.removesuffix(ending)) for n in files["imagesTr"])
    sources: list[Source] = []
    masks: dict[str, Mask] = {}
    counts = {}
    for part in _IMAGES:
        cases: dict[str, dict[int, tuple[str, str]]] = defaultdict(dict)
        for file, (path, name) in files[part].items():
            found = re.fullmatch(r"(.+)_(\d{4})", file.removesuffix(ending))
            if not file.endswith(ending) or not (found or decathlon):
                refused.append((name, "not named as nnU-Net names images", f"CASE_0000{ending} was expected"))
            elif decathlon:
                cases[file.removesuffix(ending)][0] = (path, name)
            else:
                cases[found[1]][int(found[2])] = (path, name)
        counts[part] = 0
        for case, held in sorted(cases.items()):
            name = str(PurePosixPath(next(iter(held.values()))[1]).parent / case)
            wanted = [0] if decathlon else list(range(len(channels)))
            if sorted(held) != wanted:
                have = ", ".join(f"_{c:04d}" for c in sorted(held))
                refused.append(
                    (name, "other channels than dataset.json names", f"{have}; {len(wanted)} were expected")
                )
                continue
            kind = kind_of(held[0][0])
            if kind is None or kind in ("zip", "dicom"):
                refused.append((name, "of no format that vitmed reads", ending))
                continue
            counts[part] += 1
            paths = tuple(held[c][0] for c in wanted)
            item = ("channels", len(channels)) if decathlon and len(channels) > 1 else None
            sources.append(Source(name, kind if len(paths) == 1 else "channels", paths, item))
            if part == "imagesTr" and case in labels:
                masks[name] = Mask((labels[case][0],), ignore, values=pairs)
    cases = {s.id.rsplit("/", 1)[-1] for s in sources if "/imagesTr/" in f"/{s.id}"}
    for case, (_, name) in labels.items():
        if case not in cases:
            refused.append((name, "label without an image", f"no case {case} in imagesTr"))
    for _, name in files["labelsTs"].values():
        refused.append((name, "labels of imagesTs", "its cases are taken without masks"))
    for file, (_, name) in files["labelsTr"].items():
        if not file.endswith(ending):
            refused.append((name, "not named as nnU-Net names labels", f"CASE{ending} was expected"))
    modality = modality_of(channels)
    return Survey(
        sources,
        refused,
        Told(
            layout=NAME,
            masks=masks,
            modalities={s.id: modality for s in sources} if modality else {},
            structures=values,
            notes=tuple(_notes(counts, len(masks), channels, modality)),
        ),
    )


def modality_of(channels: list[str]) -> str | None:
    """The modality that all names of channels say beyond doubt, or None."""
    found = set()
    for name in channels:
        low = name.strip().lower()
        try:
            found.add("mr" if low in _MR else None if low in _AMBIGUOUS else canonical_modality(low))
        except InputError:
            found.add(None)
    return found.pop() if len(found) == 1 else None


def _notes(counts: dict[str, int], masks: int, channels: list[str], modality: str | None):
    told = ", ".join(channels)
    yield (
        f"Taken as an {NAME}: {counts['imagesTr']} cases of imagesTr, {masks} of them with a mask of labelsTr; "
        f"{'channel' if len(channels) == 1 else 'channels'} {told}"
        + (f", so {modality}." if modality else ".")
    )
    if counts["imagesTs"]:
        yield (
            f"{counts['imagesTs']} cases of imagesTs are in it without masks, split like all others: they are not "
            "the test split."
        )
    if modality is None:
        yield (
            f"dataset.json calls the channels {told}, which does not tell the modality beyond doubt: without "
            "--modality it is unknown."
        )


def _read(path: str) -> dict:
    try:
        with open(path, encoding="utf-8") as file:
            content = json.load(file)
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(
            f"{path} lies beside imagesTr, as nnU-Net has it, but is no readable JSON ({error})"
        ) from None
    if not isinstance(content, dict):
        raise InputError(f"{path} lies beside imagesTr, but holds no nnU-Net dataset: a table was expected")
    if "dataset" in content:
        raise InputError(
            f"{path} names its files one by one under the key 'dataset', which vitmed does not follow; remove the "
            "key if all of them lie in imagesTr and labelsTr, or give a manifest CSV"
        )
    return content


def _channels(content: dict, path: str) -> list[str]:
    """Names of the channels, in their order."""
    held = content.get("channel_names", content.get("modality"))
    right = isinstance(held, dict) and held and all(isinstance(v, str) for v in held.values())
    if not right or set(held) != {str(i) for i in range(len(held))}:
        raise InputError(
            f'{path} says channel_names (or modality) {held!r}; such as {{"0": "CT"}} was expected, '
            "numbered from 0"
        )
    return [held[str(i)] for i in range(len(held))]


def _structures(held, path: str) -> tuple[dict[str, tuple[int, ...]], int | None]:
    """The values of each structure by its name, without the background, and the value for "nobody has looked"."""
    if held is None:
        return {}, None
    if not isinstance(held, dict):
        raise InputError(f'{path} says labels {held!r}; such as {{"background": 0, "liver": 1}} was expected')
    if all(isinstance(v, str) for v in held.values()):  # v1 has it the other way round
        twice = [name for name, n in Counter(held.values()).items() if n > 1]
        if twice:
            raise InputError(f"{path} gives the name {twice[0]!r} to several labels; make them differ")
        held = {name: value for value, name in held.items()}
    found = {}
    for name, value in held.items():
        values = value if isinstance(value, list) else [value]
        try:
            whole = tuple(int(v) for v in values)
        except (TypeError, ValueError):
            whole = ()
        if (
            not whole
            or not all(0 <= v < UNMARKED for v in whole)
            or any(isinstance(v, (float, bool)) for v in values)
        ):
            raise InputError(
                f"{path} gives the label {name!r} the value {value!r}; whole numbers from 0 to 254 were expected"
            )
        other = next((n for n, held in found.items() if held == whole), None)
        if other is not None:
            raise InputError(
                f"{path} gives the labels {other!r} and {name!r} the same value {value!r}; make them differ"
            )
        found[name] = whole
    ignore = found.pop("ignore", None)
    return {n: v for n, v in found.items() if v != (0,)}, None if ignore is None else ignore[0]


def _ending(files: dict, path: str) -> str:
    """How all image files end, where dataset.json (of v1) does not say: v1 knew .nii.gz alone."""
    if not any(name.endswith(".nii.gz") for name in files):
        raise InputError(f"{path} has no file_ending, and imagesTr holds no .nii.gz; say how its files end")
    return ".nii.gz"


def _last(name: str) -> str:
    return os.path.basename(name)
