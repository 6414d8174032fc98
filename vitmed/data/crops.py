"""Sub-volumes of examples: random ones in training, the centre in sweeps.

Where a random crop lies is a function of (seed, step, example), as every random draw is, and another one each time that the
example is in a batch; it is drawn on the host, in integers, because only what it touches is read. Some may be drawn about what is marked, as nnU-Net draws a third of its
own (Isensee et al. 2021, "oversampling of the foreground"): of large scans with small structures most boxes hold none.
"""

import dataclasses
import hashlib
from collections.abc import Callable, Sequence

import numpy as np

from vitmed.errors import InputError


@dataclasses.dataclass(frozen=True)
class Crop:
    """A box in every example.

    Attributes:
        size: of the box, array order.
        drawn: (seed, step) of a random place; None is the centre, rounded towards the start.
        foreground: share, in [0, 1], of the random places that are about a marked voxel: of any structure that the
            example holds with the same chance, however small, and any voxel of it. Where it holds none, and of the
            rest, a place is drawn like any.
    """

    size: tuple[int, ...]
    drawn: tuple[int, int] | None = None
    foreground: float = 0.0

    def starts(
        self, example: np.ndarray, whole: tuple[int, ...], marked: Sequence[Callable] = ()
    ) -> np.ndarray:
        """Where the box begins in each example.

        Args:
            example: (B, 2) or (B, 3) uint32, as ``vitmed.data.keys.example_keys`` takes them.
            whole: size of the examples, array order; nowhere smaller than ``size``.
            marked: for each example, what gives voxels (m, n) of each structure that it holds; called where they are
                asked for, and needed with ``foreground`` alone.

        Returns:
            (B, n) int64. A random place is uniform over all at which the box lies within the example; one about a voxel
            has it in the middle, or as near to that as the box lies within the example.
        """
        room = np.subtract(whole, self.size).astype(np.int64)
        if self.drawn is None:
            return np.tile(room // 2, (len(example), 1))
        starts = np.array([self._anywhere(words, room) for words in example], np.int64)
        for i, words in enumerate(example if self.foreground else ()):
            share, which, place = self._bits("foreground", words, 3)
            structures = marked[i]() if share < self.foreground * 2**64 else ()
            if structures:
                voxels = structures[which % len(structures)]
                starts[i] = np.clip(voxels[place % len(voxels)] - np.array(self.size) // 2, 0, room)
        return starts

    def _anywhere(self, words: np.ndarray, room: np.ndarray) -> list[int]:
        bits = self._bits("crop", words, len(room))
        return [b % (int(r) + 1) for b, r in zip(bits, room, strict=True)]

    def _bits(self, purpose: str, words: np.ndarray, count: int) -> list[int]:
        """So many random numbers of 64 bits, those of an example for a purpose."""
        seed, step = self.drawn
        again = f" {int(words[2])}" if len(words) > 2 and words[2] else ""
        text = f"{purpose} {seed} {step} {int(words[0])} {int(words[1])}{again}".encode()
        drawn = np.frombuffer(hashlib.blake2b(text, digest_size=8 * count).digest(), "<u8")
        return [int(b) for b in drawn]


def check(size: tuple[int, ...], whole: tuple[int, ...], name: str) -> None:
    """InputError where a box of ``size``, which ``name`` asks for, does not lie in an example of size ``whole``."""
    inside = len(size) == len(whole) and all(0 < c <= n for c, n in zip(size, whole, strict=True))
    if not inside:
        box, held = (",".join(map(str, s)) or "()" for s in (size, whole))
        raise InputError(f"config.data.crop is {box}, which does not lie within the {held} of {name}")
