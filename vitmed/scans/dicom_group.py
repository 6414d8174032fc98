"""DICOM files to scans: which images make one volume, and which are pictures by themselves.

A series is one volume only most of the time. It may hold several orientations, echoes, b-values, time points
or acquisitions, each of them a volume; and in a series of radiographs or of ultrasound every image is a scan.
"""

import os
from collections import Counter, defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from vitmed.scans.dicom_header import SLICES, Image
from vitmed.scans.how import How
from vitmed.scans.how import chosen as frames_chosen
from vitmed.scans.scan import Refusals, Source

Part = tuple[Image, int]  # a file's image and the frame of it

# What makes two images different at any place, what does only where several lie at one, and what does there only if it
# gives volumes of the same places for the most part: the halves of an interleaved series, one slice of which was sent
# twice, are none.
_ALWAYS = ("stack", "echo", "b", "time")
_IF_REPEATED = ("TE", "type", "trigger", "acquisition")
_IF_ALIKE = ("TE", "trigger", "acquisition")
# Milliseconds, and of the time itself: makers round the time of one echo otherwise from slice to slice.
_ONE_ECHO = (0.05, 0.01)


def sources(
    images: Iterable[Image], names: dict[str, str], how: How, root: str
) -> tuple[list[Source], Refusals]:
    """Every scan that the files hold, named, and the files that are left out.

    A scan of one file is called by the file, a series that has a folder to itself by the folder, and one of
    several in a folder by its first file; ``#`` and a word follow where one series or file holds several.

    Args:
        names: what each path is called.
        root: what the source folder itself is called.
    """
    series: dict[str, list[Image]] = defaultdict(list)
    for image in images:
        series[image.series].append(image)
    alone = Counter(
        folder for group in series.values() for folder in {os.path.dirname(i.path) for i in group}
    )
    found: list[Source] = []
    refused: Refusals = []
    for group in series.values():
        group.sort(key=lambda i: i.path)
        called = _called(group, names, alone, root)
        several = _several_patients(group)
        if several:
            refused.append((called, "several patients in one series", several))
            continue
        group, twice = _once(group, names)
        refused += twice
        found_here, bad = _scans(group, called, names, how)
        found += found_here
        refused += bad
    return found, refused


def _several_patients(group: list[Image]) -> str:
    """How many patients a series holds and by what they are told apart, "" where it is one.

    Where an image has no id, by names, then by dates of birth; an image that leaves out one of them may be anybody's.
    """
    by = [("ids", {i.patient for i in group})]
    if "" in by[0][1]:
        by += [("names", {i.person[0] for i in group}), ("dates of birth", {i.person[1] for i in group})]
    told = ((what, len(found - {""})) for what, found in by)
    return next((f"{count} of them, by their {what}" for what, count in told if count > 1), "")


def stacks(parts: list[Part]) -> list[tuple[str, list[Part]]]:
    """Parts of one series as volumes: (what sets it apart, "" where nothing does, its parts)."""
    groups = _by_orientation(parts)
    for name in _ALWAYS:
        groups = _split(groups, lambda part, name=name: _value(part, name), name)
    for name in _IF_REPEATED:
        groups = [made for group in groups for made in _apart(group, name)]
    return groups


def _apart(group: tuple[str, list[Part]], name: str) -> list[tuple[str, list[Part]]]:
    """A group as volumes of its places, where ``name`` tells them apart; else the group as it is."""
    if not _repeated(group[1]):
        return [group]
    if name == "TE":
        echo = _echoes(group[1])
        made = _split([group], lambda part: echo[_value(part, "TE")], "echo")
    else:
        made = _split([group], lambda part: _value(part, name), name)
    if name not in _IF_ALIKE or _alike([parts for _, parts in made]):
        return made
    if name == "trigger" and (phase := _phases(group[1])) is not None:
        return _split([group], lambda part: phase[id(part)], "phase")
    return [group]


def _echoes(parts: list[Part]) -> dict[float | None, float | None]:
    """The echo, by the least of its times, that each echo time belongs to: of those that hardly differ, one."""
    echo: dict[float | None, float | None] = {None: None}
    last = least = -np.inf
    for time in sorted({_value(part, "TE") for part in parts} - {None}):
        if time - last > _ONE_ECHO[0] + _ONE_ECHO[1] * time:
            least = time
        echo[time] = least
        last = time
    return echo


def _phases(parts: list[Part]) -> dict[int, int] | None:
    """The number, from 1, of each part among those of its place in the order of their trigger times, by its ``id``.

    Of a heart the trigger times of a phase differ a little from slice to slice. None where places have different
    numbers of parts, or a time is missing.
    """
    places: dict[tuple, list[Part]] = defaultdict(list)
    for part in parts:
        places[_where(part)].append(part)
    counts = {len(held) for held in places.values()}
    if len(counts) > 1 or any(_value(part, "trigger") is None for part in parts):
        return None
    return {
        id(part): number
        for held in places.values()
        for number, part in enumerate(sorted(held, key=lambda part: _value(part, "trigger")), 1)
    }


def _alike(groups: list[list[Part]]) -> bool:
    """Whether all have more than half of the places of the largest in common with it."""
    sets = [{_where(part) for part in parts} for parts in groups]
    largest = max(sets, key=len)
    return all(len(held & largest) > len(held) / 2 for held in sets)


def _where(part: Part) -> tuple:
    return tuple(round(v, 3) for v in part[0].plane(part[1]).position)


def _scans(group: list[Image], called: str, names: dict[str, str], how: How) -> tuple[list[Source], Refusals]:
    found: list[Source] = []
    refused: Refusals = []
    slices: list[Part] = []
    for image in group:
        placed = all(p.position and p.orientation for p in image.planes)
        if image.frames == 1:
            # Of other modalities only those are slices that say where they lie.
            if image.modality in SLICES or (placed and len(group) > 1):
                slices.append((image, 0))
            else:
                found.append(Source(names[image.path], "dicom", (image.path,), parts=((image, 0),)))
        elif placed and len(image.planes) == image.frames:
            made = [
                (label, tuple(parts)) for label, parts in stacks([(image, f) for f in range(image.frames)])
            ]
            for label, parts in made:
                whole = names[image.path]
                if len(made) == 1:
                    found.append(Source(whole, "dicom", (image.path,), None, parts))
                else:
                    item = ("stack", label)
                    found.append(Source(f"{whole}#{label}", "dicom", (image.path,), item, parts, whole))
        elif how.frames == "refuse":
            refused.append(
                (names[image.path], "several images in one file", f"{image.frames} frames; see --frames")
            )
        elif how.frames == "channels":
            parts = tuple((image, f) for f in range(image.frames))
            found.append(Source(names[image.path], "dicom", (image.path,), ("channels", image.frames), parts))
        else:
            for frame in frames_chosen(image.frames, how.frames):
                whole, item = names[image.path], ("frame", frame)
                name = f"{whole}#{frame:04d}"
                found.append(Source(name, "dicom", (image.path,), item, ((image, frame),), whole))
    if slices:
        made = stacks(slices)
        for label, parts in made:
            files = tuple(image.path for image, _ in parts)
            name, whole = (called, "") if len(made) == 1 else (f"{called}#{label}", called)
            found.append(Source(name, "dicom", files, None, tuple(parts), whole, named_by=group[0].path))
    return found, refused


def _called(group: list[Image], names: dict[str, str], alone: Counter, root: str) -> str:
    folder = os.path.dirname(group[0].path)
    inside = all(os.path.dirname(i.path) == folder for i in group)
    first = names[group[0].path]
    if len(group) == 1 or not inside or alone[folder] != 1:
        return first
    parent = Path(first).parent.as_posix()
    return root if parent == "." else parent


def _once(group: list[Image], names: dict[str, str]) -> tuple[list[Image], Refusals]:
    """Leaves out the second copy of an image: the same instance at the same place."""
    seen: dict[tuple, Image] = {}
    refused: Refusals = []
    for image in group:
        key = (image.instance, image.planes[0].position) if image.instance else (image.path,)
        if key in seen:
            refused.append((names[image.path], "the same image twice", f"as {names[seen[key].path]}"))
        else:
            seen[key] = image
    return list(seen.values()), refused


def _split(groups: list[tuple[str, list[Part]]], value, name: str) -> list[tuple[str, list[Part]]]:
    made = []
    for label, parts in groups:
        by: dict[object, list[Part]] = defaultdict(list)
        for part in parts:
            by[value(part)].append(part)
        if len(by) == 1:
            made.append((label, parts))
            continue
        for found in sorted(by, key=lambda v: (isinstance(v, str), v if v is not None else -1, str(v))):
            word = f"{name}-{found:g}" if isinstance(found, float | int) else f"{name}-{found or 'none'}"
            made.append((f"{label}+{word}" if label else word, by[found]))
    return made


def _value(part: Part, name: str):
    return dict(part[0].plane(part[1]).apart).get(name)


def _by_orientation(parts: list[Part]) -> list[tuple[str, list[Part]]]:
    """Parts whose directions agree to a hundredth go together; where one has none, all stay together."""
    planes = [image.plane(frame) for image, frame in parts]
    if any(p.orientation is None or p.position is None for p in planes):
        return [("", parts)]
    kinds: list[tuple[np.ndarray, list[Part]]] = []
    for part, plane in zip(parts, planes, strict=True):
        direction = np.array(plane.orientation)
        for other, held in kinds:
            if np.abs(direction - other).max() < 0.01:
                held.append(part)
                break
        else:
            kinds.append((direction, [part]))
    if len(kinds) == 1:
        return [("", parts)]
    ways = [way_of(direction) for direction, _ in kinds]
    named = [w if ways.count(w) == 1 else f"{w}-{ways[: i + 1].count(w)}" for i, w in enumerate(ways)]
    return [(name, held) for name, (_, held) in zip(named, kinds, strict=True)]


def way_of(orientation) -> str:
    """``sagittal``, ``coronal`` or ``axial``: the plane that an orientation is nearest to."""
    normal = np.cross(orientation[:3], orientation[3:])
    return ("sagittal", "coronal", "axial")[int(np.abs(normal).argmax())]


def _repeated(parts: list[Part]) -> bool:
    """Whether several slices lie at one place."""
    planes = [image.plane(frame) for image, frame in parts]
    if any(p.position is None for p in planes):
        return False
    return len(set(map(_where, parts))) < len(planes)
