"""How large a scan is and how far apart its voxels lie, from its header where the format has one."""

import numpy as np

from vitmed.scans import geometry
from vitmed.scans.kinds import kind_of
from vitmed.scans.read import read
from vitmed.scans.scan import Source

Measured = tuple[
    tuple[int, ...], tuple[float, ...] | None
]  # voxels and millimetres in array order; None unknown


def measure(source: Source) -> Measured:
    """Size and spacing as ``read`` would give them, without decoding a volume's voxels.

    Raises:
        Refused: the header has a fault. A fault of the voxels is not seen.
    """
    match source.kind:
        case "nifti":
            from vitmed.scans import nifti

            return _turned(*nifti.measure(source.files[0]))
        case "itk":
            from vitmed.scans import itk

            size, affine = itk.measure(source.files[0])
            if affine is not None:
                return _turned(size, affine)
        case "dicom" if len(source.parts) > 1 and (source.item is None or source.item[0] == "stack"):
            from vitmed.scans import dicom_stack

            _, affine = dicom_stack.order(list(source.parts))
            image = source.parts[0][0]
            return _turned((len(source.parts), image.rows, image.columns), affine)
        case "dicom" if source.parts:
            image, frame = source.parts[0]
            spacing = image.plane(frame).spacing
            return (image.rows, image.columns), spacing if spacing and min(spacing) > 0 else None
        case "image":
            from vitmed.scans import images

            return images.measure(source.files[0], source.item), None
        case "channels":
            first = source.files[0]
            return measure(Source(first, kind_of(first) or "dicom", (first,)))
    scan = read(source)
    return scan.size, scan.spacing


def _turned(size: tuple[int, ...], affine: np.ndarray) -> Measured:
    """The same on axes near to S, P, L, as every reader turns a volume."""
    # A volume of one byte, seen as many: it takes no memory to turn.
    seen, affine = geometry.canonical(np.broadcast_to(np.uint8(0), size), affine)
    return seen.shape, tuple(float(s) for s in np.linalg.norm(affine[:3, :3], axis=0))
