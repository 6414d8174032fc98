"""Pixels that may show who the patient is: text burned into them, and faces.

Headers can be cleaned, pixels cannot without changing them, so such scans are kept and named in the datasheet.
These are signs, not proofs: what is not named here has not been shown to be free of them (DICOM PS3.15, options
Clean Pixel Data and Clean Recognizable Visual Features).
"""

import numpy as np
from scipy.ndimage import gaussian_filter

from vitmed.scans.scan import Scan

TEXT, FACE = "text", "face"

_MARGIN = 0.16  # share of the rows, at the top and at the bottom, where machines write names and dates
_STROKES = 8  # dark-to-bright steps along a row of text
_ROWS = 5  # a line of text is at least as many rows high
_GRID = 4.0  # mm: voxels a face is looked for in
# A head is about this large in millimetres, skin to skin (S, P, L): smaller is an organ, larger a body.
_HEAD = ((140.0, 330.0), (130.0, 270.0), (110.0, 230.0))


def of(scan: Scan, modality: str, burned_in: bool | None) -> tuple[str, ...]:
    """What a scan shows, of ``text`` and ``face``.

    Args:
        scan: as read, before it is resized.
        modality: canonical.
        burned_in: what its header says of burned-in text, None if nothing.
    """
    found = []
    if burned_in or (burned_in is None and modality == "ultrasound" and band(scan.array)):
        found.append(TEXT)
    if modality == "mr" and scan.spacing is not None and len(scan.size) == 3 and face(scan):
        found.append(FACE)
    return tuple(found)


def band(array: np.ndarray) -> bool:
    """Whether a line of writing stands on black at the top or bottom of a picture (H, W, C).

    A row of writing is mostly background and steps from dark to bright many times; a line of it is several such
    rows together, with a row of background on either side or the picture's edge.
    """
    if array.ndim != 3:
        return False
    grey = array.astype(np.float32).max(-1)
    low, high = float(grey.min()), float(np.percentile(grey, 99.9))
    if not high > low:
        return False
    dark, bright = grey <= low + 0.12 * (high - low), grey >= low + 0.5 * (high - low)
    strokes = (bright[:, 1:] & ~bright[:, :-1]).sum(1)
    written = (dark.mean(1) >= 0.55) & (strokes >= _STROKES)
    empty = np.concatenate([[True], dark.mean(1) >= 0.97, [True]])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], written, [False]]).astype(int)))
    rows = max(1, round(_MARGIN * len(grey)))
    for start, stop in zip(edges[::2], edges[1::2], strict=True):
        beside = empty[max(0, start - 2) : start + 1].any() and empty[stop + 1 : stop + 4].any()
        if stop - start >= _ROWS and beside and (stop <= rows or start >= len(grey) - rows):
            return True
    return False


def face(scan: Scan) -> bool:
    """Whether a volume (z, y, x, C) of MR is a whole head with its front: tissue low and in front.

    Heads that are stripped to the brain are too small; heads whose face was cut or blurred away lack tissue there.
    """
    if scan.affine is None:
        return False
    every = [max(1, round(_GRID / s)) for s in scan.spacing]
    extent = (-(-n // e) * e * s for n, e, s in zip(scan.size, every, scan.spacing, strict=True))
    if any(length < least for length, (least, _) in zip(extent, _HEAD, strict=True)):
        return False
    small = scan.array[tuple(slice(None, None, n) for n in every)]
    small = (small[..., 0] if small.shape[-1] == 1 else small.max(-1)).astype(np.float32)
    small = gaussian_filter(small, 0.7)
    tissue = small > small.min() + 0.12 * (_brightest(small, 0.01) - small.min())
    boxes = []
    for axis, (n, step) in enumerate(zip(every, scan.spacing, strict=True)):
        share = tissue.mean(tuple(a for a in range(3) if a != axis))
        held = np.flatnonzero(share > 0.02)
        if not len(held):
            return False
        least, most = _HEAD[axis]
        if not least <= (held[-1] - held[0] + 1) * n * step <= most:
            return False
        boxes.append(slice(held[0], held[-1] + 1))
    head = tissue[tuple(boxes)]
    depth, length, width = head.shape
    # z runs up, y backwards: the face is in the lower half, in the front quarter, in the middle.
    front = head[depth // 8 : depth // 2, : length // 4, width // 4 : width - width // 4]
    return bool(front.mean() > 0.08)


def _brightest(values: np.ndarray, share: float) -> float:
    """The value that ``share`` of all are above, as ``np.percentile`` has it, in half its time."""
    place = (1 - share) * (values.size - 1)
    above_mean = values[values > values.mean()]  # fewer to put in order
    left_out = values.size - above_mean.size
    if place >= left_out:
        values, place = above_mean, place - left_out
    below = int(place)
    ordered = np.partition(values.ravel(), below)
    above = ordered[below + 1 :].min(initial=np.inf) if place > below else ordered[below]
    return float(ordered[below] + (above - ordered[below]) * (place - below))
