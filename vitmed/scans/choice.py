"""Which series of a study to take, by a rule in a file.

The file is TOML; ``vitmed ingest --help`` shows one with all its lines. A series must fit every line that is given; of
those that fit, the best ``take`` are kept: the first of ``prefer`` decides, the next breaks ties.
"""

import dataclasses
import re
import tomllib
from collections import defaultdict
from difflib import get_close_matches
from pathlib import Path

import numpy as np

from vitmed.errors import InputError
from vitmed.scans.dicom_group import way_of
from vitmed.scans.recipe import modality as canonical_modality
from vitmed.scans.recipe import modality_or_unknown
from vitmed.scans.scan import Refusals, Source

WAYS = ("axial", "coronal", "sagittal", "unknown")
_LISTS = ("modality", "orientation", "description", "not_description", "prefer")
_RANGES = ("slice_thickness", "slices")
_KEYS = ("format", "take", *_LISTS, *_RANGES)


class _Series:
    """What the rule asks of one series."""

    def __init__(self, sources: list[Source]):
        self.sources = sources
        image, frame = sources[0].parts[0]
        plane = image.plane(frame)
        self.id = sources[0].id if len(sources) == 1 else sources[0].part_of
        self.study = image.study
        self.modality = modality_or_unknown(image.modality)
        self.description = image.description
        self.slices = sum(len(s.parts) for s in sources)
        self.matrix = image.rows * image.columns
        self.orientation = way_of(plane.orientation) if plane.orientation else "unknown"
        self.thickness = _thickness(sources[0]) or plane.thickness


# How each preference compares two series (the smaller is better), and how it is told.
_PREFER = {
    "most slices": (lambda s: -s.slices, lambda s: f"{s.slices} slices"),
    "thinnest": (
        lambda s: s.thickness or np.inf,
        lambda s: f"{s.thickness:.4g} mm" if s.thickness else "unknown",
    ),
    "largest matrix": (lambda s: -s.matrix, lambda s: f"{s.matrix} pixels a slice"),
}


def choose(sources: list[Source], text: str) -> tuple[list[Source], Refusals]:
    """Takes the series of each study that the rule ``text`` asks for; what is not DICOM is kept.

    Returns:
        The sources taken, with the reason in ``chosen``, and (id, reason, detail) of the others.

    Raises:
        InputError: not a rule.
    """
    rule = parse(text)
    kept = [s for s in sources if s.kind != "dicom"]
    refused: Refusals = []
    series: dict[str, list[Source]] = defaultdict(list)
    for source in sources:
        if source.kind == "dicom":
            frame = source.item is not None and source.item[0] == "frame"
            series[source.part_of if frame else source.id].append(source)
    studies: dict[str, list[_Series]] = defaultdict(list)
    for held in map(_Series, series.values()):
        studies[held.study or held.id].append(held)
    for held in studies.values():
        faults = [(s, _misfit(s, rule)) for s in held]
        fit = sorted((s for s, fault in faults if not fault), key=lambda s: (*_rank(s, rule), s.id))
        taken = fit[: rule["take"] or None]
        for s in taken:
            why = _why(s, fit, len(held), rule)
            kept += [dataclasses.replace(source, chosen=why) for source in s.sources]
        for s, fault in faults:
            if s not in taken:
                detail = (
                    fault or f"{_told(s, rule)}; {taken[0].id} was preferred with {_told(taken[0], rule)}"
                )
                refused += [(source.id, "not chosen by the series rule", detail) for source in s.sources]
    return kept, refused


def read(path: str | Path) -> str:
    """The text of a rule file, which is a rule.

    Raises:
        InputError: missing, or as ``parse`` has it.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except FileNotFoundError:
        raise InputError(
            f"{path} does not exist; a TOML file with the rule for series was expected"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not a readable TOML file ({error})") from None
    parse(text, str(path))
    return text


def parse(text: str, path: str = "the rule for series") -> dict:
    """The lines of a rule, those that were left out included.

    Args:
        path: what messages call it.

    Raises:
        InputError: not TOML, or with a key or value that is not known.
    """
    try:
        rule = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is not a readable TOML file ({error})") from None
    for key in rule:
        if key not in _KEYS:
            near = get_close_matches(key, _KEYS, 1)
            raise InputError(
                f"{path} has the key {key!r}; {near[0] if near else ', '.join(_KEYS)} was expected"
            )
    if rule.get("format") != 1:
        raise InputError(f"{path} says format = {rule.get('format')!r}; format = 1 was expected")
    for key in _LISTS:
        value = rule.get(key, [])
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise InputError(f"{path} says {key} = {value!r}; a list of words was expected")
    for key in _RANGES:
        value = rule.get(key, [0, 1])
        numbers = (
            isinstance(value, list) and len(value) == 2 and all(isinstance(v, int | float) for v in value)
        )
        if not numbers or not value[0] <= value[1]:
            raise InputError(f"{path} says {key} = {value!r}; [lowest, highest] was expected")
    take = rule.setdefault("take", 1)
    if not isinstance(take, int) or isinstance(take, bool) or take < 0:
        raise InputError(
            f"{path} says take = {take!r}; a number of series of each study, or 0 for all, was expected"
        )
    for key, known in (("orientation", WAYS), ("prefer", _PREFER)):
        for value in rule.get(key, []):
            if value not in known:
                raise InputError(f"{path} says {key} = {value!r}; {', '.join(known)} are known")
    rule["modality"] = [canonical_modality(m) for m in rule.get("modality", [])]
    for key in ("description", "not_description"):
        for pattern in rule.get(key, []):
            try:
                re.compile(pattern)
            except re.error as error:
                raise InputError(f"{path} says {key} = {pattern!r}, no regular expression: {error}") from None
    rule.setdefault("prefer", ["most slices"])
    return rule


def _misfit(s: _Series, rule: dict) -> str:
    """Why a series does not fit, "" where it does."""
    for key, value in (("modality", s.modality), ("orientation", s.orientation)):
        if rule.get(key) and value not in rule[key]:
            return f"{key} {value}, {' or '.join(rule[key])} asked"
    for key, value, unit in (("slice_thickness", s.thickness, " mm"), ("slices", s.slices, "")):
        if key in rule:
            low, high = rule[key]
            if value is None:
                return f"{key} unknown, {low:g} to {high:g}{unit} asked"
            if not low - 1e-3 <= value <= high + 1e-3:
                return f"{key} {value:.4g}{unit}, {low:g} to {high:g} asked"
    asked, barred = rule.get("description", []), rule.get("not_description", [])
    if asked and not any(re.search(p, s.description, re.IGNORECASE) for p in asked):
        return f"description {s.description!r}, {' or '.join(asked)} asked"
    found = next((p for p in barred if re.search(p, s.description, re.IGNORECASE)), None)
    return f"description {s.description!r} has {found}" if found else ""


def _rank(s: _Series, rule: dict) -> tuple:
    return tuple(_PREFER[name][0](s) for name in rule["prefer"])


def _told(s: _Series, rule: dict) -> str:
    return ", ".join(_PREFER[name][1](s) for name in rule["prefer"]) or "an earlier name"


def _why(s: _Series, fit: list[_Series], count: int, rule: dict) -> str:
    if len(fit) == 1:
        return f"the only one of {count} series that fits" if count > 1 else "the only series, and it fits"
    return f"{_told(s, rule)}: {fit.index(s) + 1} of {len(fit)} that fit, of {count} series"


def _thickness(source: Source) -> float | None:
    """Millimetres from slice to slice, by their positions; None for one image, or where they are missing."""
    planes = [image.plane(frame) for image, frame in source.parts]
    if len(planes) < 2 or any(p.position is None or p.orientation is None for p in planes):
        return None
    normal = np.cross(planes[0].orientation[:3], planes[0].orientation[3:])
    gaps = np.diff(np.sort(np.array([p.position for p in planes]) @ normal))
    return float(np.median(gaps))
