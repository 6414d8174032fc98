"""Random streams that are addressed, not advanced: the same address gives the same numbers, always.

A stream's address is (seed, purpose, then whatever tells its owner apart: modality, patient, scan). So an
example does not depend on which others are made, in which order, or by how many workers; and drawing one more
number for the pose moves nothing in the noise.
"""

import hashlib

import numpy as np


def stream(seed: int, purpose: str, *address: int | str) -> np.random.Generator:
    """The Philox generator at this address."""
    text = "/".join(map(str, (seed, purpose, *address)))
    digest = hashlib.blake2b(text.encode(), digest_size=16).digest()
    return np.random.Generator(np.random.Philox(key=np.frombuffer(digest, "<u8")))
