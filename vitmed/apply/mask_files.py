"""A mask as the file a person opens: on the grid of the scan it was made from, in a format that can say where it lies."""

from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from PIL import Image

from vitmed.scans.kinds import kind_of
from vitmed.scans.writeback import write_nifti


def names_of(ids: Sequence[str]) -> dict[str, str]:
    """What the file of each scan is called, without its suffix: the scan's id, in the same folders.

    The suffix of the scan's own file goes, unless two scans would then be called alike. Names stay under the folder they are
    written to, whatever an id says.
    """
    inside = {
        name: "/".join(p for p in PurePosixPath(name).parts if p not in ("/", "..")) or "_" for name in ids
    }
    bare = {name: _bare(path) for name, path in inside.items()}
    often = Counter(bare.values())
    return {name: bare[name] if often[bare[name]] == 1 else inside[name] for name in ids}


def write_mask(out: Path, name: str, mask: np.ndarray, affine: np.ndarray) -> str:
    """Writes a mask that lies on its scan's own grid.

    A volume becomes ``NAME.nii.gz``; one that does not tell where it lies ``NAME.npy``, for NIfTI would have to make that
    up. An image becomes ``NAME.png``, 8-bit grey: nearly black to the eye, as its numbers are the classes.

    Args:
        mask, affine: (*S) uint8 and (4, 4), as ``vitmed.scans.writeback.onto_scan`` gives them.

    Returns:
        The file's path from ``out``.
    """
    flat = mask.ndim == 2
    suffix = ".png" if flat else ".nii.gz" if np.isfinite(affine).all() else ".npy"
    path = out / f"{name}{suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    if flat:
        Image.fromarray(mask).save(path)
    elif suffix == ".npy":
        np.save(path, mask)
    else:
        write_nifti(path, mask, affine)
    return path.relative_to(out).as_posix()


def _bare(name: str) -> str:
    """A path without the suffix of a scan; what follows a # stays."""
    path, mark, rest = name.partition("#")
    if kind_of(path) is not None:
        path = path[: -len(".gz")] if path.lower().endswith(".gz") else path
        path = str(PurePosixPath(path).with_suffix(""))
    return path + mark + rest
