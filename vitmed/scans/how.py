"""What a person decides about reading, beside what the files say."""

import dataclasses
from pathlib import Path

from vitmed.errors import InputError
from vitmed.pool import cores

FRAMES = ("each", "channels", "refuse")
INCLUDABLE = ("localiser", "secondary")


@dataclasses.dataclass(frozen=True)
class How:
    """The choices that change which scans a folder holds.

    Attributes:
        frames: what a file of several images is: ``each`` (one scan an image), ``channels`` (one scan with as
            many channels), ``refuse``, or N evenly spaced images. None: ``each``, but 4D volumes are
            refused, whose fourth axis may be time as well as contrast.
        include: of ``localiser`` and ``secondary``, DICOM images that are left out otherwise.
        series: the text of a rule that says which series of a study to take (``vitmed.scans.choice``), or None.
        suffixes: the contrasts to take of a BIDS folder, by their suffixes (``vitmed.scans.bids``).
        elsewhere: whether ``suffixes`` were chosen of another folder, so that this one may hold fewer, or be none of BIDS.
        unpack: an empty folder for what is in zip archives and MedMNIST files, or None to refuse the former.
        workers: processes that read DICOM headers.
        quiet: do not show how far the look through many files is.
    """

    frames: str | int | None = None
    include: tuple[str, ...] = ()
    series: str | None = None
    suffixes: tuple[str, ...] = ()
    elsewhere: bool = False
    unpack: str | None = None
    workers: int = 1
    quiet: bool = True

    def __post_init__(self):
        if isinstance(self.frames, int):
            if self.frames < 1:
                raise InputError(f"--frames is {self.frames}; at least 1 was expected")
        elif self.frames is not None and self.frames not in FRAMES:
            raise InputError(
                f"--frames {self.frames!r} is not known; {', '.join(FRAMES)} or a number was expected"
            )
        for name in self.include:
            if name not in INCLUDABLE:
                raise InputError(f"--include {name!r} is not known; it takes {' and '.join(INCLUDABLE)}")

    def told(self) -> dict:
        """The choices by the names of their options, as a datasheet keeps them."""
        return {
            "frames": self.frames,
            "include": list(self.include),
            "series": self.series,
            "bids_suffix": list(self.suffixes),
        }

    def unpacking(self, folder: Path, workers: int | None) -> "How":
        """The same with a folder for archives, which is made, and the number of processes (None: one a core)."""
        folder.mkdir(mode=0o700)  # what archives hold is their owner's
        return dataclasses.replace(self, unpack=str(folder), workers=workers or cores())


def chosen(count: int, frames: str | int | None) -> list[int]:
    """Which of ``count`` images to take: all, or N evenly spaced with the first and the last (the middle for 1)."""
    if not isinstance(frames, int) or frames >= count:
        return list(range(count))
    if frames == 1:
        return [(count - 1) // 2]
    return [round(i * (count - 1) / (frames - 1)) for i in range(frames)]
