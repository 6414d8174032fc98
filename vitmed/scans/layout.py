"""What a folder laid out by a convention (nnU-Net, BIDS) or a DICOM segmentation tells of scans beside their pixels."""

import dataclasses

from vitmed.scans.scan import Refusals, Source

UNMARKED = 255  # in a mask: nobody has looked here

Names = dict[str, str]  # the path of every file, and what it is called: its path from the source folder


@dataclasses.dataclass(frozen=True)
class Mask:
    """Where the mask of a scan lies.

    Attributes:
        files: one of the scan's own grid, or the DICOM segmentations that make it together.
        ignore: the value by which the file marks voxels that nobody has looked at, or None.
        segments: whether they are DICOM segmentations.
        values: (structure, value) of all that may be in it; () where nobody named them. The numbers that DICOM
            segmentations have themselves mean something else in each file.
    """

    files: tuple[str, ...]
    ignore: int | None = None
    segments: bool = False
    values: tuple[tuple[str, int], ...] = ()


@dataclasses.dataclass(frozen=True)
class Segments:
    """A DICOM segmentation that is part of a mask: its path, its name, and what its structures are called."""

    file: str
    called: str
    names: tuple[str, ...]


@dataclasses.dataclass(frozen=True)
class Told:
    """What is told of scans, by their ids.

    Attributes:
        layout: what the convention is called, "" where there is none.
        masks, patients, timepoints, views, modalities: of each scan; ``patients`` also of each refused file by its
            name, so that it can be taken out of what is said of it.
        structures: the values that each structure of the masks has.
        segments: what DICOM segmentations name, which has no values yet.
        notes: what a person should hear.
    """

    layout: str = ""
    masks: dict[str, Mask] = dataclasses.field(default_factory=dict)
    patients: dict[str, str] = dataclasses.field(default_factory=dict)
    timepoints: dict[str, str] = dataclasses.field(default_factory=dict)
    views: dict[str, str] = dataclasses.field(default_factory=dict)
    modalities: dict[str, str] = dataclasses.field(default_factory=dict)
    structures: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)
    segments: tuple[Segments, ...] = ()
    notes: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Survey:
    """What a source holds: scans, what is refused at first sight as (file, reason, detail), and what is told."""

    sources: list[Source]
    refused: Refusals
    told: Told = Told()
