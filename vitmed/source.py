"""Which vitmed this is: what was begun by other source is neither joined nor gone on with."""

import functools
import hashlib
from pathlib import Path


@functools.cache
def mark() -> str:
    """The first digits of a hash of all source that runs."""
    house = Path(__file__).parent
    digest = hashlib.sha256()
    for file in sorted(house.rglob("*.py")):
        digest.update(f"{file.relative_to(house).as_posix()}\n".encode() + file.read_bytes())
    return digest.hexdigest()[:12]
