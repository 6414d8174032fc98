"""Configs: a Python file in, one frozen dataclass a section out, and nothing mistyped in between.

A config file defines ``get_config(arg)`` and returns an ``ml_collections.ConfigDict``. Its sections are
checked against the dataclass of the room that uses them, before any work: an unknown key, a wrong type
or a value outside its choices ends the verb with the nearest right name. A key that nobody reads cannot
exist, because only fields of the dataclasses are accepted.
"""

import ast
import dataclasses
import difflib
import importlib.util
import json
import types
import typing
from collections.abc import Container
from pathlib import Path
from typing import Any, TypeVar

from ml_collections import ConfigDict

from vitmed.errors import InputError

Section = TypeVar("Section")


def load(spec: str, overrides: dict[str, str] | None = None, known: type | None = None) -> ConfigDict:
    """Reads ``FILE.py[:ARG]`` or a run's resolved ``config.json``, then applies ``key=value`` overrides.

    Args:
        spec: path of the config, with the variant argument after a colon (``configs/pretrain_mae.py:b16,224``).
        overrides: dotted key to the text given on the command line. Values are Python literals; what is
            not a literal is taken as text.
        known: the dataclass of the whole config. Its sections may be given a key where the file leaves them out;
            without it only those of the file.

    Raises:
        InputError: no such file, a file without ``get_config``, an argument it refuses, or an unknown key.
    """
    config = _read(spec)
    for key, text in (overrides or {}).items():
        _override(config, key, text, known)
    return config


def variant(arg: str) -> tuple[str, tuple[int, ...], tuple[int, ...]]:
    """Parses ``VARIANT+PATCH,SIZE``: ``"b16,224"`` -> ("b", (16, 16), (224, 224)); ``"b8,96x96x96"`` is 3D."""
    head, comma, tail = arg.partition(",")
    name = head.rstrip("0123456789")
    digits = head[len(name) :]
    try:
        if not (name and comma and digits):
            raise ValueError
        size = tuple(int(n) for n in tail.split("x"))
        size = size * 2 if len(size) == 1 else size
        return name, (int(digits),) * len(size), size
    except ValueError:
        raise InputError(
            f"config argument {arg!r} is not VARIANT+PATCH,SIZE such as 'b16,224' or 'b8,96x96x96'"
        ) from None


def build(cls: type[Section], values: Any, where: str = "config") -> Section:
    """Makes the frozen dataclass ``cls`` from a mapping, checking every key and type.

    Fields that are themselves dataclasses are built from sub-mappings; ``tuple`` fields take lists; an
    ``int`` is accepted for a ``float``. ``where`` is the dotted path named in messages. A field whose type alone does
    not say what it means tells that by ``metadata={"expected": "give ..."}``.

    Raises:
        InputError: an unknown key (with the nearest right one), a missing key, or a wrong type.
    """
    if isinstance(values, ConfigDict):
        values = values.to_dict()
    if not isinstance(values, dict):
        raise InputError(f"{where} is {values!r}; a section with keys was expected")
    fields = {f.name: f for f in dataclasses.fields(cls)}
    hints = typing.get_type_hints(cls)
    for key in values:
        if key not in fields:
            raise InputError(unknown_key(f"{where}.{key}", [f"{where}.{f}" for f in fields]))
    made = {}
    for name, field in fields.items():
        if name in values:
            try:
                made[name] = _typed(values[name], hints[name], f"{where}.{name}")
            except InputError:
                if "expected" not in field.metadata:
                    raise
                raise InputError(
                    f"{where}.{name} is {values[name]!r}; {field.metadata['expected']}"
                ) from None
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            raise InputError(f"{where}.{name} is missing; give it in the config or as --{where}.{name}=...")
    try:
        return cls(**made)
    except InputError:
        raise
    except ValueError as error:  # a dataclass's own __post_init__ check, phrased as "key reason"
        raise InputError(f"{where}.{error}") from None


def unknown_key(key: str, known: list[str]) -> str:
    """The sentence for a key that does not exist, naming the nearest one that does."""
    section, _, last = key.rpartition(".")
    beside = {name.rpartition(".")[2]: name for name in known if name.rpartition(".")[0] == section}
    near = [beside[name] for name in difflib.get_close_matches(last, beside, n=1)]
    near = near or difflib.get_close_matches(key, known, n=1, cutoff=0.8)
    hint = f"did you mean {near[0]}?" if near else "known keys: " + ", ".join(sorted(known))
    return f"{key} is not a key of this config; {hint}"


def tree(values: dict[str, Any]) -> ConfigDict:
    """A ``ConfigDict`` of these values, whose keys may hold dots: paths of datasets do."""
    return ConfigDict(values, allow_dotted_keys=True)


def to_json(config: ConfigDict) -> str:
    """The resolved config as JSON that ``load`` reads back to the same values."""
    return json.dumps({"format": 1, "config": config.to_dict()}, indent=2, sort_keys=True) + "\n"


def flat(config: ConfigDict) -> dict[str, Any]:
    """Dotted keys to values, lists as tuples, for comparing two configs."""
    out = {}

    def walk(node, prefix):
        for key, value in node.items():
            if isinstance(value, dict) and value:
                walk(value, f"{prefix}{key}.")
            else:
                out[prefix + key] = tuple(value) if isinstance(value, list) else value

    walk(config.to_dict(), "")
    return out


def _read(spec: str) -> ConfigDict:
    path, arg = spec, None
    if ":" in spec and not Path(spec).exists():
        path, _, arg = spec.rpartition(":")
    file = Path(path)
    if not file.is_file():
        raise InputError(f"config {path} does not exist; give FILE.py, FILE.py:ARG or a run's config.json")
    if file.suffix == ".json":
        try:
            return tree(json.loads(file.read_text())["config"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise InputError(f"config {path} is not a resolved vitmed config ({error})") from None
    module_spec = importlib.util.spec_from_file_location(f"vitmed_config_{file.stem}", file)
    module = importlib.util.module_from_spec(module_spec)
    try:
        # From its text, not by way of __pycache__: none is left beside a person's config, and an edit within
        # one second of the last, of the same length, is not mistaken for the text before it.
        exec(module_spec.loader.source_to_code(file.read_bytes(), str(file)), module.__dict__)
        if not hasattr(module, "get_config"):
            raise InputError(f"config {path} defines no get_config(arg); see configs/pretrain_mae.py")
        config = module.get_config(arg or None)
    except InputError:
        raise
    except Exception as error:
        raise InputError(f"config {path} does not run: {type(error).__name__}: {error}") from None
    return tree(config.to_dict() if isinstance(config, ConfigDict) else config)


def _override(config: ConfigDict, key: str, text: str, known: type | None) -> None:
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError):
        value = {"true": True, "false": False, "none": None}.get(text.lower(), text)
    node, hint = config, known
    *parents, last = key.split(".")
    for depth, parent in enumerate(parents):
        hint = _below(hint, parent, node)
        if parent not in node:
            if not _is_section(hint):
                keys = {*flat(config), *_keys(known)}
                raise InputError(unknown_key(f"config.{key}", [f"config.{k}" for k in sorted(keys)]))
            with node.unlocked():
                node[parent] = ConfigDict()
        elif not isinstance(node[parent], ConfigDict):
            raise InputError(f"config.{'.'.join(parents[: depth + 1])} is a value, not a section with keys")
        node = node[parent]
    value = tree(value) if isinstance(value, dict) else value
    # A key that the file leaves at its default is added here and judged by the section's dataclass.
    with node.ignore_type(), node.unlocked():
        node[last] = value


def _below(hint: Any, key: str, given: Container[str] = ()) -> Any:
    """The type of ``key`` in a section of type ``hint``; None where it has no such key, or where that is not known.

    Args:
        given: the keys that the section has.
    """
    if dataclasses.is_dataclass(hint):
        found = typing.get_type_hints(hint).get(key)
        if typing.get_origin(found) in (typing.Union, types.UnionType):
            found = next((option for option in typing.get_args(found) if _is_section(option)), found)
        return found
    # What is in a free dict is judged by a dataclass that another key chooses; of dict[str, ...] the file gives the names.
    if _is_free(hint):
        return dict
    return typing.get_args(hint)[1] if typing.get_origin(hint) is dict and key in given else None


def _is_section(hint: Any) -> bool:
    return _is_free(hint) or dataclasses.is_dataclass(hint)


def _is_free(hint: Any) -> bool:
    return hint is dict or hint == dict[str, Any]


def _keys(hint: Any) -> list[str]:
    """Dotted keys of a dataclass and of its sections."""
    names = [field.name for field in dataclasses.fields(hint)] if dataclasses.is_dataclass(hint) else []
    return [f"{name}{key}" for name in names for key in [f".{k}" for k in _keys(_below(hint, name))] or [""]]


def _typed(value: Any, hint: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if hint is Any:
        return value
    if origin in (typing.Union, types.UnionType):
        options = typing.get_args(hint)
        if value is None and type(None) in options:
            return None
        problems = []
        for option in options:
            if option is not type(None):
                try:
                    return _typed(value, option, where)
                except InputError as error:
                    # Of a word that is none of those that may be given in place of something else, the words are told.
                    is_words = typing.get_origin(option) is typing.Literal
                    problems.insert(0 if is_words and isinstance(value, str) else len(problems), error)
        raise problems[0]
    if origin is typing.Literal:
        choices = typing.get_args(hint)
        if value in choices:
            return value
        if value is None and "none" in choices:  # of --config.parallel.remat=none it is the choice
            return "none"
        near = difflib.get_close_matches(str(value), [str(c) for c in choices], n=1)
        hint_text = f" (did you mean {near[0]!r}?)" if near else ""
        raise InputError(
            f"{where} is {value!r}; it must be one of {', '.join(map(repr, choices))}{hint_text}"
        )
    if dataclasses.is_dataclass(hint):
        return build(hint, value, where)
    if origin is tuple:
        args = typing.get_args(hint)
        if not isinstance(value, (list, tuple)):
            raise InputError(f"{where} is {value!r}; a tuple such as (16, 16) was expected")
        kinds = [args[0]] * len(value) if len(args) == 2 and args[1] is Ellipsis else list(args)
        if len(kinds) != len(value):
            raise InputError(f"{where} is {tuple(value)!r}; {len(kinds)} entries were expected")
        return tuple(_typed(v, k, f"{where}[{i}]") for i, (v, k) in enumerate(zip(value, kinds)))
    if origin is dict or hint is dict:
        if not isinstance(value, dict):
            raise InputError(f"{where} is {value!r}; a mapping was expected")
        of, kind = typing.get_args(hint) or (Any, Any)
        for key in value:
            if of is str and not isinstance(key, str):
                raise InputError(f"{where} has the key {key!r} ({type(key).__name__}); text was expected")
        return {k: _typed(v, kind, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, hint) and not (hint is int and isinstance(value, bool)):
        return value
    raise InputError(f"{where} is {value!r} ({type(value).__name__}); {hint.__name__} was expected")
