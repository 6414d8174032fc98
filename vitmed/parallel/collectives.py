"""What the devices send one another in a step, read from the compiled program."""

import math
import re
from collections import defaultdict

KINDS = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_BYTES = {"pred": 1, "s4": 0.5, "u4": 0.5, "bf16": 2, "f16": 2, "f32": 4, "f64": 8, "c64": 8, "c128": 16}
_SHAPE = re.compile(r"\b([a-z]+\d*[a-z0-9]*)\[([\d,]*)\]")
_OPERATION = re.compile(rf"= (.*?) ({'|'.join(KINDS)})(-start)?\(")
_COMPUTATION = re.compile(r"^(?:ENTRY )?%?([\w.\-]+) \(.*\{$")
_CALLED = re.compile(r"(?:body|condition|to_apply|calls)=%?([\w.\-]+)")
_TRIPS = re.compile(r'"known_trip_count":\{"n":"(\d+)"\}')


def collectives(program: str) -> dict[str, tuple[int, int]]:
    """{kind: (how many, bytes of their results on a device)} in one run of ``program`` (HLO text).

    What stands in a loop counts as often as the loop turns, where the compiler knows that.
    """
    found: dict[str, list[tuple[str, float]]] = defaultdict(list)
    calls: dict[str, list[tuple[str, int]]] = defaultdict(list)
    here = entry = ""
    for line in program.splitlines():
        if begun := _COMPUTATION.match(line):
            here = begun[1]
            entry = here if line.startswith("ENTRY") else entry
        if operation := _OPERATION.search(line):
            shapes, kind, start = operation.groups()
            sizes = [_size(*shape) for shape in _SHAPE.findall(shapes)]
            # The start of an asynchronous one gives its operands too; what comes of it is the last or the largest.
            found[here].append((kind, max(sizes, default=0) if start else sum(sizes)))
        if " while(" in line or "to_apply=" in line or "calls=" in line:
            trips = _TRIPS.search(line)
            times = int(trips[1]) if trips else 1
            calls[here] += [(name, times) for name in _CALLED.findall(line)]
    total: dict[str, list[float]] = {}

    def walk(name: str, times: int) -> None:
        for kind, size in found[name]:
            count = total.setdefault(kind, [0, 0])
            count[0] += times
            count[1] += times * size
        for called, turns in calls[name]:
            walk(called, times * turns)

    walk(entry, 1)
    return {kind: (int(total[kind][0]), int(total[kind][1])) for kind in KINDS if kind in total}


def _size(kind: str, shape: str) -> float:
    digits = re.search(r"\d+", kind)
    each = _BYTES.get(kind, int(digits[0]) / 8 if digits else 0)
    return each * math.prod(int(n) for n in shape.split(",") if n)
