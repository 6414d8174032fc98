"""Sub-volumes of examples: random ones in training, the centre in sweeps.

Where a random crop lies is a function of (seed, step, example), as every random draw is; it is drawn on the host, in
integers, because only what it touches is read.
"""

import dataclasses
import hashlib

import numpy as np

from vitmed.errors import InputError


@dataclasses.dataclass(frozen=True)
class Crop:
    """A box in every example.

    Attributes:
        size: of the box, array order.
        drawn: (seed, step) of a random place; None is the centre, rounded towards the start.
    """

    size: tuple[int, ...]
    drawn: tuple[int, int] | None = None

    def starts(self, example: np.ndarray, whole: tuple[int, ...]) -> np.ndarray:
        """Where the box begins in each example.

        Args:
            example: (B, 2) uint32 identities.
            whole: size of the examples, array order; nowhere smaller than ``size``.

        Returns:
            (B, n) int64. A random place is uniform over all at which the box lies within the example.
        """
        room = np.subtract(whole, self.size).astype(np.int64)
        if self.drawn is None:
            return np.tile(room // 2, (len(example), 1))
        return np.array([_draw(*self.drawn, words, room) for words in example], np.int64)


def check(size: tuple[int, ...], whole: tuple[int, ...], name: str) -> None:
    """InputError where a box of ``size``, which ``name`` asks for, does not lie in an example of size ``whole``."""
    inside = len(size) == len(whole) and all(0 < c <= n for c, n in zip(size, whole, strict=True))
    if not inside:
        box, held = (",".join(map(str, s)) or "()" for s in (size, whole))
        raise InputError(f"config.data.crop is {box}, which does not lie within the {held} of {name}")


def _draw(seed: int, step: int, words: np.ndarray, room: np.ndarray) -> list[int]:
    text = f"crop {seed} {step} {int(words[0])} {int(words[1])}".encode()
    bits = np.frombuffer(hashlib.blake2b(text, digest_size=8 * len(room)).digest(), "<u8")
    return [int(b) % (int(r) + 1) for b, r in zip(bits, room, strict=True)]
