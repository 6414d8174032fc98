"""One scan as it leaves a reader, and the way a reader refuses one."""

import dataclasses

import numpy as np

Refusals = list[tuple[str, str, str]]  # file or id, reason, detail


class Refused(Exception):
    """A fault of one file: it is left out with a reason, counted, and the rest goes on.

    Args:
        reason: a short phrase shared by all files with this fault, by which they are counted.
        detail: what was found in this file; bytes that are not UTF-8 are spelt out in it, since it will be written.
    """

    def __init__(self, reason: str, detail: str = ""):
        detail = detail.encode("utf-8", "backslashreplace").decode()
        super().__init__(reason, detail)  # both, so that it survives the way back from a worker process
        self.reason, self.detail = reason, detail

    def __str__(self) -> str:
        return f"{self.reason}: {self.detail}" if self.detail else self.reason


@dataclasses.dataclass(frozen=True, slots=True)
class Source:
    """Where one scan lies.

    Attributes:
        id: what the scan is called in the dataset: its path relative to the source folder (the folder for a
            DICOM series that has one to itself), or ``train/000012`` in an ``.npz``; ``#`` and a word follow
            where one file or series holds several scans.
        kind: the reader: ``image array nifti itk dicom npz``, or ``channels`` for files that are one channel each.
        files: the file, the files of a DICOM series, or one file a channel.
        item: which of several scans of a file: (split, index) of a set in an ``.npz``, ("frame", i) of a cine, a
            TIFF or a 4D volume, ("stack", name) of a multi-frame file, ("channels", n) for all as channels.
        parts: what the reader noted when it looked, so that it need not look again.
        part_of: the file or series of which this is one of several scans; "" where it is the only one.
        chosen: why this series of its study was taken, "" where no rule was given.
        named_by: the file whose path the id is made of, "" for the first of ``files``: what may tell who a person is
            stands in its header (an instance's UID is often its file's name).
    """

    id: str
    kind: str
    files: tuple[str, ...]
    item: tuple[str, int | str] | None = None
    parts: tuple = dataclasses.field(default=(), repr=False, compare=False)
    part_of: str = ""
    chosen: str = ""
    named_by: str = ""


@dataclasses.dataclass(frozen=True)
class Scan:
    """A scan in the values its file gives it.

    Attributes:
        array: (*S, C) numbers; volumes are (z, y, x, C), close to the LPS axes. CT is in HU.
        span: the values that mean 0 and 1 on the relative scale (dtype range of 8-bit images, DICOM window),
            or None where the file says nothing and the scan's own range serves.
        spacing: millimetres per voxel in array order, or None.
        affine: (4, 4) float64, array index (z, y, x, 1) to LPS millimetres (x, y, z, 1), or None.
        modality: canonical name, or None where the file does not say.
        patient: the file's patient id, "" where it has none.
        site: where it was acquired, "" unknown.
        orientation: three letters, the sides (of L R, P A, S I) that the axes of the file ran towards before
            they were turned to S, P, L; "" unknown. With ``affine`` it leads back to the file's own order.
        grid: (n + 1, n + 1) float64, index of ``array`` to the index of the scan as it was read (turned, but not
            yet resampled, cropped or padded); None where it is as it was read.
    """

    array: np.ndarray
    span: tuple[float, float] | None = None
    spacing: tuple[float, ...] | None = None
    affine: np.ndarray | None = None
    modality: str | None = None
    patient: str = ""
    site: str = ""
    orientation: str = ""
    grid: np.ndarray | None = None

    @property
    def size(self) -> tuple[int, ...]:
        """The spatial shape S."""
        return self.array.shape[:-1]
