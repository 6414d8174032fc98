"""Source to scan: the reader of each kind, imported when the first file of the kind is met."""

import warnings

from vitmed.errors import VitmedError
from vitmed.scans.scan import Refused, Scan, Source


def read(source: Source) -> Scan:
    """Reads one scan.

    Raises:
        Refused: the file has a fault, told in the reason.
    """
    try:
        with warnings.catch_warnings():  # remarks on headers; what matters in them is refused
            warnings.simplefilter("ignore")
            return _read(source)
    except (Refused, VitmedError, MemoryError):
        raise
    except Exception as error:  # a codec's own kind of complaint about a file no reader has met before
        raise Refused("cannot be read", f"{type(error).__name__}: {error}") from error


def _read(source: Source) -> Scan:
    match source.kind:
        case "npz":
            from vitmed.scans import arrays

            return arrays.read_item(source.files[0], source.item)
        case "image":
            from vitmed.scans import images

            return images.read(source.files[0])
        case "array":
            from vitmed.scans import arrays

            return arrays.read(source.files[0])
        case "nifti":
            from vitmed.scans import nifti

            return nifti.read(source.files[0])
        case "itk":
            from vitmed.scans import itk

            return itk.read(source.files[0])
        case "dicom":
            from vitmed.scans import dicom

            return dicom.read(source.files)
    raise ValueError(f"no reader for {source.kind}")


def read_mask(path: str) -> Scan:
    """Reads the mask that lies beside a scan, by its suffix."""
    from vitmed.scans.find import kind_of

    return read(Source(path, kind_of(path) or "dicom", (path,)))
