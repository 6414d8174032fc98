"""A state as few arrays: the small ones laid end to end, the large ones by themselves.

orbax spends about half a millisecond of processor time on every array, however small, which training on
the same cores has to wait for; a small transformer with its optimiser has 400 arrays, and bundled is saved
six times faster. Large arrays stay alone, so that they can be written in shards.
"""

from typing import Any

import numpy as np
from flax import traverse_util

SMALL = 2**20  # bytes: copying so much takes as long as orbax's work on one array


def bundle(tree: dict[str, Any]) -> tuple[dict[str, np.ndarray], list[dict]]:
    """Lays out nested dicts of arrays; every array is copied.

    Returns:
        The arrays to store, by name, and the index (for JSON), one entry a leaf: its ``path`` of keys, and
        ``array``, the name it is stored under. Arrays in a bundle also have ``start`` (in elements),
        ``shape`` and ``dtype``. A dict without keys or a None has no ``array`` but ``empty``.
    """
    index, arrays, small = [], {}, {}
    for path, leaf in traverse_util.flatten_dict(tree, keep_empty_nodes=True).items():
        entry = {"path": list(path)}
        index.append(entry)
        if leaf is None or leaf is traverse_util.empty_node:
            entry["empty"] = "none" if leaf is None else "dict"
            continue
        leaf = np.asarray(leaf)
        if leaf.nbytes > SMALL:
            entry["array"] = "/".join(path)
            arrays[entry["array"]] = np.array(leaf)
        else:
            # A bundle holds one top-level key and one type, so that parameters are read without the rest.
            entry |= {"array": f"{path[0]}:{leaf.dtype}", "shape": list(leaf.shape), "dtype": str(leaf.dtype)}
            parts = small.setdefault(entry["array"], [])
            entry["start"] = sum(part.size for part in parts)
            parts.append(leaf.ravel())
    return arrays | {name: np.concatenate(parts) for name, parts in small.items()}, index


def unbundle(arrays: dict[str, np.ndarray], index: list[dict]) -> dict[str, Any]:
    """The nested dicts of arrays that ``bundle`` laid out, every array by itself in memory."""
    flat = {}
    for entry in index:
        if "empty" in entry:
            leaf = None if entry["empty"] == "none" else {}
        else:
            leaf = arrays[entry["array"]]
            if "start" in entry:
                size = int(np.prod(entry["shape"]))
                leaf = leaf[entry["start"] : entry["start"] + size].reshape(entry["shape"]).copy()
        flat[tuple(entry["path"])] = leaf
    return traverse_util.unflatten_dict(flat)
