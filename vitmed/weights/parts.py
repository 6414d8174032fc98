"""The arrays of a file by what they are in a layout, each taken once, so that none is forgotten or taken for another."""

import re

import numpy as np

from vitmed.errors import InputError
from vitmed.weights.layouts import Layout, Names


class Parts:
    """The arrays of the file ``source``, named as ``layout`` names them.

    Whoever asks for a part that is needed and not there gets an InputError that names it.
    """

    def __init__(self, arrays: dict[str, np.ndarray], layout: Layout, source: str):
        self._arrays, self._layout, self._source = arrays, layout, source
        self._taken: set[str] = set()

    def depth(self) -> int:
        """Number of blocks; at least one is looked for."""
        begins = re.compile(re.escape(self._layout.blocks) + r"(\d+)\.")
        return 1 + max((int(found[1]) for found in map(begins.match, self._arrays) if found), default=0)

    def array(self, part: str, block: int | None = None, needed: bool = True) -> np.ndarray | None:
        """A part that is one array."""
        for (stem,) in self._names(part, block):
            if stem in self._arrays:
                self._taken.add(stem)
                return self._arrays[stem]
        return self._lack(self._names(part, block)[0][0]) if needed else None

    def module(
        self, part: str, block: int | None = None, needed: bool = True, bias: bool = True
    ) -> tuple[np.ndarray, np.ndarray] | None:
        """Weight and bias, each joined along the outputs; without ``bias``, one that is not there is zero."""
        for stems in self._names(part, block):
            if all(f"{stem}.weight" in self._arrays for stem in stems):
                break
        else:
            return self._lack(f"{self._names(part, block)[0][0]}.weight") if needed else None
        weights, biases = [], []
        for stem in stems:
            weights.append(self._arrays[f"{stem}.weight"])
            self._taken.add(f"{stem}.weight")
            if f"{stem}.bias" in self._arrays:
                biases.append(self._arrays[f"{stem}.bias"])
                self._taken.add(f"{stem}.bias")
            elif bias:
                self._lack(f"{stem}.bias")
            else:
                biases.append(np.zeros(len(weights[-1]), np.float32))
        return np.concatenate(weights), np.concatenate(biases)

    def linear(self, part: str, block: int | None = None, bias: bool = True) -> dict[str, np.ndarray]:
        """(in, out) kernel and bias."""
        weight, added = self.module(part, block, bias=bias)
        return {"kernel": weight.T, "bias": added}

    def norm(self, part: str, block: int | None = None, needed: bool = True) -> dict[str, np.ndarray] | None:
        """Scale and bias of a layer normalisation."""
        found = self.module(part, block, needed)
        return found and {"scale": found[0], "bias": found[1]}

    def check(self) -> tuple[str, ...]:
        """The names that were left out.

        Raises:
            InputError: names that are unknown.
        """
        if unknown := self._unknown():
            raise InputError(
                f"{self._source} looks like {self._layout.name}, but has {_some(unknown)}, not known there; without "
                "that the outputs would be others, so nothing was converted"
            )
        return tuple(sorted(set(self._arrays) - self._taken))

    def _unknown(self) -> list[str]:
        rest = sorted(set(self._arrays) - self._taken)
        return [name for name in rest if not re.fullmatch(self._layout.left_out, name)]

    def _names(self, part: str, block: int | None) -> Names:
        if block is None:
            return self._layout.whole.get(part, ())
        head = f"{self._layout.blocks}{block}."
        return tuple(tuple(head + stem for stem in stems) for stems in self._layout.block.get(part, ()))

    def _lack(self, name: str):
        there = [other for other in self._unknown() if other.rpartition(".")[2] == name.rpartition(".")[2]]
        besides = f"; it has {_some(there)} besides" if there else ""
        raise InputError(f"{self._source} looks like {self._layout.name}, but {name} is missing{besides}")


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
