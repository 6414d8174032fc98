"""Disjoint sets of 0..n-1 that are joined one pair at a time (Tarjan 1975)."""


class Joined:
    """At first each of the ``n`` stands alone."""

    def __init__(self, n: int):
        self._parent = list(range(n))

    def of(self, i: int) -> int:
        """The smallest member of the set that ``i`` is in."""
        while self._parent[i] != i:
            self._parent[i] = self._parent[self._parent[i]]
            i = self._parent[i]
        return i

    def join(self, i: int, j: int) -> None:
        """Makes one set of the two that ``i`` and ``j`` are in."""
        i, j = sorted((self.of(i), self.of(j)))
        self._parent[j] = i
