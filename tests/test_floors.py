"""Holds the plan of the house: which room may import which, read from the source without running it."""

import ast
from pathlib import Path

import pytest

HOUSE = Path(__file__).resolve().parents[1] / "vitmed"

# A room imports only rooms of lower floors, and itself. The package's own __init__ holds the version alone,
# so it lies under all.
FLOORS = {
    "vitmed": -1,
    **dict.fromkeys(
        ("scans", "physics", "errors", "config", "progress", "memory", "pool", "durable", "source", "words"), 0
    ),
    **dict.fromkeys(("activations",), 0),
    **dict.fromkeys(("models", "optim", "parallel", "data", "phantoms", "staging"), 1),
    **dict.fromkeys(("objectives", "runs", "weights"), 2),
    **dict.fromkeys(("infer",), 3),
    **dict.fromkeys(("evaluate", "report"), 4),
    **dict.fromkeys(("job",), 5),
    **dict.fromkeys(("train",), 6),
    **dict.fromkeys(("apply", "study", "scale"), 7),
    **dict.fromkeys(("cli",), 8),
    **dict.fromkeys(("__main__",), 9),
}
# On the ground floor themselves, yet their neighbours there need them: every room may name a fault, use all cores, or
# show how far it is.
GROUND = {"vitmed", "errors", "pool", "progress", "words"}


def room(module: str) -> str:
    """``vitmed.data.order`` -> ``data``; the package itself -> ``vitmed``."""
    return (module.split(".") + ["vitmed"])[1] if "." in module else "vitmed"


def imports(source: str, modules: set[str]) -> list[tuple[str, int, bool]]:
    """(imported module, line, whether at top level) of every import in ``source``, also inside functions.

    ``from vitmed.data import order`` imports the module ``vitmed.data.order`` where ``modules`` has it.
    """
    tree = ast.parse(source)
    inside = {
        id(n)
        for f in ast.walk(tree)
        if isinstance(f, ast.FunctionDef | ast.AsyncFunctionDef)
        for n in ast.walk(f)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = "." * node.level + (node.module or "")
            names = [f"{base}.{a.name}" if f"{base}.{a.name}" in modules else base for a in node.names]
        else:
            continue
        found += [(name, node.lineno, id(node) not in inside) for name in dict.fromkeys(names)]
    return found


def faults(house: dict[str, str]) -> list[str]:
    """What breaks the plan in ``house`` {module name: source}, a sentence each."""
    bad = []
    top_level = {}
    for module, source in sorted(house.items()):
        here = room(module)
        if here not in FLOORS:
            bad.append(
                f"{module}: the room {here} is on no floor; put it in FLOORS and in the README's picture"
            )
            continue
        top_level[module] = set()
        for name, line, at_top in imports(source, set(house)):
            place = f"{module}:{line} imports {name}"
            package = name.split(".")[0]
            if name.startswith("."):
                bad.append(f"{place}: imports are absolute")
            elif package in ("tensorflow", "torch", "transformers") and (at_top or package == "tensorflow"):
                bad.append(f"{place}: the core needs neither TensorFlow nor PyTorch")
            elif package in ("configs", "tests"):
                bad.append(f"{place}: the package stands without the folders beside it")
            elif package == "vitmed":
                there = room(name)
                if there != here and there not in GROUND and FLOORS.get(there, 99) >= FLOORS[here]:
                    bad.append(
                        f"{place}: {here} is on floor {FLOORS[here]}, {there} on {FLOORS.get(there, 'none')}"
                    )
                if name in house and name != module:
                    top_level[module].add(name)
    return bad + [f"a ring of imports: {' -> '.join(ring)}" for ring in rings(top_level)]


def rings(graph: dict[str, set[str]]) -> list[list[str]]:
    """Cycles in an import graph, each once, found by walking depth first."""
    found, done = [], set()

    def walk(module: str, path: list[str]) -> None:
        if module in path:
            found.append([*path[path.index(module) :], module])
        elif module not in done:
            for target in sorted(graph.get(module, ())):
                walk(target, [*path, module])
            done.add(module)

    for module in sorted(graph):
        walk(module, [])
    return found


def whole_house() -> dict[str, str]:
    house = {}
    for file in sorted(HOUSE.rglob("*.py")):
        parts = file.relative_to(HOUSE.parent).with_suffix("").parts
        house[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = file.read_text()
    return house


def test_every_import_keeps_to_the_plan():
    """Otherwise rooms grow into one another, and none can be read, changed or tested by itself."""
    house = whole_house()
    assert len(house) > 10, f"the house was not found under {HOUSE}"
    assert faults(house) == []


def test_init_files_hand_nothing_on():
    """Otherwise a name has two addresses and importing one module imports its whole room."""
    for file in HOUSE.rglob("__init__.py"):
        if file.parent.name not in ("vitmed", "runs"):
            body = ast.parse(file.read_text()).body
            extra = [n for n in body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
            assert not extra, f"{file.relative_to(HOUSE.parent)} holds more than a docstring"


SOUND = {
    "vitmed.errors": "",
    "vitmed.data.order": "from vitmed.errors import InputError",
    "vitmed.data.loader": "import numpy\nfrom vitmed.data import order",
    "vitmed.train": "from vitmed.data.loader import batches",
}


def test_a_sound_house_has_no_faults():
    """Otherwise the rule refuses what the plan allows."""
    assert faults(SOUND) == []


@pytest.mark.parametrize(
    ("module", "source", "word"),
    [
        ("vitmed.data.order", "from vitmed.train import train", "floor 1, train on 6"),
        ("vitmed.data.order", "def f():\n    import vitmed.train", "floor 1, train on 6"),
        ("vitmed.models.vit", "from vitmed.data import order", "floor 1, data on 1"),
        ("vitmed.scans.recipe", "from vitmed.physics import noise", "floor 0, physics on 0"),
        ("vitmed.data.order", "from . import loader", "absolute"),
        ("vitmed.data.order", "from vitmed.data.loader import batches", "a ring"),
        ("vitmed.attic.box", "", "on no floor"),
        ("vitmed.models.vit", "import torch", "PyTorch"),
        ("vitmed.models.vit", "def f():\n    import tensorflow", "TensorFlow"),
        ("vitmed.models.vit", "import configs.pretrain_mae", "folders beside"),
    ],
)
def test_a_wrong_import_is_found(module, source, word):
    """Otherwise the rule above passes whatever is written."""
    found = faults({**SOUND, module: source})
    assert any(word in fault for fault in found), found


def test_torch_may_be_a_guest():
    """The peers of a benchmark are imported where they are used; the check must not forbid that."""
    assert (
        faults({**SOUND, "vitmed.scale.bench": "def run():\n    import torch\n    import transformers"}) == []
    )
