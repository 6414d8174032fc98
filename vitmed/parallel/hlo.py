"""A compiled program read back from its text: the compiler's own cycles, and what chips send to one another.

The text (XLA's HLO) is a list of computations, each a list of instructions in the order in which they run. What is
inside a loop counts as often as the loop turns; of a branch the dearest side counts.
"""

import math
import re
from collections import Counter
from dataclasses import dataclass, field

COLLECTIVES = (
    "all-reduce",
    "all-gather",
    "reduce-scatter",
    "all-to-all",
    "ragged-all-to-all",
    "collective-permute",
)

_COMPUTATION = re.compile(r"^(ENTRY )?%?([\w.\-]+) \(.*\{$")
# The operation is the first word before a parenthesis: in a type, parentheses follow capitals (T(8,128)S(1)).
_INSTRUCTION = re.compile(r"^\s+(?:ROOT )?%?([\w.\-]+) = (.*?)\s?([a-z][a-z0-9\-]*)\(")
_ARRAY = re.compile(r"\b([a-z]+[0-9]*[a-z0-9]*)\[([0-9,]*)\]")
_CYCLES = re.compile(r'"estimated_cycles":"?(\d+)')
_CALLED = re.compile(
    r"\b(?:calls|to_apply|body|condition|branch_computations|called_computations)=(\{[^}]*\}|%?[\w.\-]+)"
)
_BODY, _CONDITION = re.compile(r"\bbody=%?([\w.\-]+)"), re.compile(r"\bcondition=%?([\w.\-]+)")
_TRIPS = re.compile(r'known_trip_count["\\]*:?=?\{["\\]*n["\\]*:["\\]*(\d+)')
_CONSTANT = re.compile(r"\bs(?:32|64)\[\](?:\{[^}]*\})? constant\((\d+)\)")
_CHANNEL = re.compile(r"\bchannel_id=(\d+)")
_WIDTH = {"pred": 1, "bf16": 2, "f8e4m3fn": 1, "f8e5m2": 1}


@dataclass
class Program:
    """What the text of a compiled program says, for one chip and one call.

    Attributes:
        cycles: the compiler's estimate for all that computes; it gives none for collectives and for copies that run
            beside the computation.
        unknown_loops: loops whose turns could not be read, and whose bodies were therefore counted once.
        alone: by kind of collective and channel, how many there are and bytes that a chip sends, by a ring.
        beside: the same of those that stand in fusions. A TPU's asynchronous transfer stands where it starts and in
            every fusion that it goes on beside, under one channel, and is one; channels are no names elsewhere.
    """

    cycles: int = 0
    unknown_loops: int = 0
    alone: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)
    beside: dict[tuple[str, str], tuple[int, int]] = field(default_factory=dict)

    @property
    def sent(self) -> Counter:
        """{kind of collective: bytes that a chip sends, by a ring}."""
        return self._total(1)

    @property
    def transfers(self) -> Counter:
        """{kind of collective: how many}."""
        return self._total(0)

    def send(self, kind: str, line: str, times: int, size: int, fused: bool) -> None:
        """Counts a collective of ``size`` bytes that happens ``times``."""
        channel = _CHANNEL.search(line)
        count = {(kind, channel[1] if channel else ""): (times, times * size)}
        self._count(*(({}, count) if fused and channel else (count, {})))

    def add(self, other: "Program") -> None:
        """Counts all of a part of the program."""
        self.cycles += other.cycles
        self.unknown_loops += other.unknown_loops
        self._count(other.alone, other.beside)

    def _count(self, alone: dict, beside: dict) -> None:
        for key, (times, size) in alone.items():
            counted = self.alone.get(key, (0, 0))
            self.alone[key] = counted[0] + times, counted[1] + size
        for key, found in beside.items():
            counted = self.beside.get(key, (0, 0))
            self.beside[key] = max(counted[0], found[0]), max(counted[1], found[1])

    def _total(self, what: int) -> Counter:
        found = Counter()
        for key in {**self.alone, **self.beside}:
            found[key[0]] += max(part.get(key, (0, 0))[what] for part in (self.alone, self.beside))
        return found


@dataclass(frozen=True)
class _Instruction:
    operation: str
    type: str
    line: str

    def called(self) -> list[str]:
        return [name for group in _CALLED.findall(self.line) for name in re.findall(r"[\w.\-]+", group)]


def read(text: str, chips: int) -> Program:
    """The costs of the program ``text``, compiled for ``chips`` devices."""
    computations, entry = _parse(text)
    program = Program()
    _walk(computations, entry, 1, chips, program)
    return program


def _parse(text: str) -> tuple[dict[str, list[_Instruction]], str]:
    computations: dict[str, list[_Instruction]] = {}
    entry, into = "", None
    for line in text.splitlines():
        if line.startswith((" ", "\t")):
            if into is not None and (found := _INSTRUCTION.match(line)):
                into.append(_Instruction(found[3], found[2], line))
        elif head := _COMPUTATION.match(line):
            into = computations[head[2]] = []
            if head[1]:
                entry = head[2]
    return computations, entry


def _walk(computations, name: str, times: int, chips: int, program: Program, fused: bool = False) -> None:
    """Adds ``times`` calls of a computation; inside a fusion cycles were counted by its caller."""
    for one in computations.get(name, ()):
        kind = one.operation.removesuffix("-start")
        if kind in COLLECTIVES:
            program.send(kind, one.line, times, sent(kind, one.operation, one.type, one.line, chips), fused)
        elif one.operation == "while":
            turns = _turns(computations, one.line)
            program.unknown_loops += turns is None
            body = _BODY.search(one.line)
            _walk(computations, body[1], times * (1 if turns is None else turns), chips, program, fused)
        elif one.operation.endswith(("-done", "-update")):
            continue  # of what was counted where it starts
        elif one.operation == "conditional":
            _dearest(computations, one.called(), times, chips, program, fused)
        else:
            cycles = _CYCLES.search(one.line)
            if cycles and not fused:
                program.cycles += times * int(cycles[1])
            inside = fused or cycles is not None or one.operation == "fusion"
            for inner in one.called():
                _walk(computations, inner, times, chips, program, inside)


def _dearest(computations, branches: list[str], times, chips, program: Program, fused: bool) -> None:
    sides = []
    for branch in branches:
        side = Program()
        _walk(computations, branch, times, chips, side, fused)
        sides.append(side)
    if sides:
        program.add(max(sides, key=lambda side: (side.cycles, side.sent.total())))


def _turns(computations, line: str) -> int | None:
    """How often a loop turns: as the compiler notes it, or from the constant that its counter is compared with."""
    if noted := _TRIPS.search(line):
        return int(noted[1])
    condition = _CONDITION.search(line)
    limits = set()
    names, seen = [condition[1]], set()
    while names:
        name = names.pop()
        if name not in seen:
            seen.add(name)
            for one in computations.get(name, ()):
                limits |= {int(n) for n in _CONSTANT.findall(one.line)}
                names += one.called()
    return limits.pop() if len(limits) == 1 else None


def sent(kind: str, operation: str, type: str, line: str, chips: int) -> int:
    """Bytes that one chip sends in a collective, if chips stand in a ring (Thakur et al. 2005).

    Of n chips that end with S bytes each, a gather sends S (n-1)/n, a reduction twice that, a scatter S (n-1).
    """
    arrays = [_bytes(dtype, shape) for dtype, shape in _ARRAY.findall(type)]
    if operation.endswith("-start") and kind != "all-reduce":
        # Operands, then results of the same number, then what the transfer needs for itself.
        results = [n for n in arrays if n > 8]
        arrays = results[len(results) // 2 :]
    size, n = sum(arrays), _group(line, chips)
    if kind == "all-reduce":
        return 2 * size * (n - 1) // n
    if kind == "reduce-scatter":
        return size * (n - 1)
    return size if kind == "collective-permute" else size * (n - 1) // n


def _bytes(dtype: str, shape: str) -> int:
    width = _WIDTH.get(dtype) or int(re.sub(r"\D", "", dtype) or 0) / 8
    return math.ceil(width * math.prod(int(n) for n in shape.split(",") if n))


def _group(line: str, chips: int) -> int:
    """How many chips take part in each group of a collective."""
    if found := re.search(r"replica_groups=\[(\d+),(\d+)\]<=", line):
        return int(found[2])
    if found := re.search(r"replica_groups=mesh\[([^\]]*)\]\s*\{([^}]*)\}", line):
        sizes = dict(re.findall(r"'([^']+)'=(\d+)", found[1]))
        return math.prod(int(sizes[axis]) for axis in re.findall(r"'([^']+)'", found[2]))
    if found := re.search(r"replica_groups=\{\{([\d,]+)\}", line):
        return found[1].count(",") + 1
    return chips
