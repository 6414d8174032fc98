"""How large a scan may be, and that a file holds about as much as it declares.

A header is a few numbers that anybody can write: 40 bytes can ask for terabytes. So whatever is about to be
allocated is compared first with what the file could hold at the best compression there is.
"""

import errno
import io
import mmap
import os

from vitmed.scans.scan import Refused

# One decoded scan. Twice the largest CT and tomosynthesis in use (1024^3 voxels of 16 bits).
MAX_BYTES = 4 * 2**30
# Deflate cannot do better than 1032 to 1, and only a mask comes near it. A large scan is held to less, so that
# two megabytes of zeros do not cost two gigabytes.
MAX_RATIO, LARGE, LARGE_RATIO = 1100, 256 * 2**20, 100
MAX_FRAMES = 100_000
DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # faults of the machine, not of a file
_MAPPED = 4 * 2**20  # larger files are mapped, not copied


def declared(size: int, held: int, packed: bool) -> None:
    """Compares the bytes a header asks for with the bytes its file has.

    Args:
        size: bytes when decoded.
        held: bytes in the file.
        packed: whether they are compressed.

    Raises:
        Refused: more than a scan may have, or than the file can hold.
    """
    if size > MAX_BYTES:
        raise Refused("too large", f"{_text(size)} when read, {_text(MAX_BYTES)} is the limit")
    ratio = (LARGE_RATIO if size > LARGE else MAX_RATIO) if packed else 1
    if size > held * ratio + (65536 if packed else 0):
        raise Refused("declares more than it holds", f"{_text(size)} of pixels in {_text(held)}")


def bounded(path: str) -> io.BytesIO | mmap.mmap:
    """The content of a file to read from, where a read never allocates more than is there.

    Python's own files allocate what a read asks for before they look, so that a wrong length costs gigabytes.

    Raises:
        OSError: it cannot be opened.
    """
    with open(path, "rb") as file:
        if os.fstat(file.fileno()).st_size <= _MAPPED:
            return io.BytesIO(file.read(_MAPPED))
        return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)


def _text(size: int) -> str:
    for unit in ("bytes", "KiB", "MiB", "GiB"):
        if size < 1024:
            return f"{size:.4g} {unit}"
        size /= 1024
    return f"{size:.4g} TiB"
