"""Configs: a mistyped key must never pass silently."""

import dataclasses
from typing import Any, Literal

import pytest
from ml_collections import ConfigDict

from vitmed import config
from vitmed.errors import InputError


@dataclasses.dataclass(frozen=True)
class Inner:
    rate: float = 0.1
    kind: Literal["a", "b"] = "a"
    patch: tuple[int, ...] = ()
    limit: int | None = None
    weights: tuple[float, ...] | Literal["root"] = ()
    within: dict[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner
    name: str = "x"
    more: Inner | None = None
    judged_elsewhere: dict = dataclasses.field(default_factory=dict)
    perhaps: dict[str, Any] | None = None
    named: dict[str, Inner] = dataclasses.field(default_factory=dict)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "some.py"
    path.write_text(
        "from ml_collections import ConfigDict\n"
        "def get_config(arg=None):\n"
        "    return ConfigDict(dict(inner=ConfigDict(dict(rate=0.5)), name=arg or 'none'))\n"
    )
    return str(path)


def test_argument_and_overrides(file):
    read = config.load(f"{file}:b16,224", {"inner.rate": "2", "inner.patch": "(4, 8)", "inner.limit": "none"})
    built = config.build(Outer, read)
    assert built == Outer(Inner(rate=2.0, patch=(4, 8), limit=None), name="b16,224")
    assert isinstance(built.inner.rate, float)


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("inner.raet", "1", "config.inner.raet is not a key of this config; did you mean config.inner.rate"),
        ("no_such_key", "1", "config.no_such_key is not a key"),
        ("innr.rate", "1", "did you mean config.inner.rate"),
        ("inner.something_else", "1", "known keys: .*config.inner.kind, config.inner.limit"),
        ("inner.rate", "fast", "config.inner.rate is 'fast' .str.; float was expected"),
        ("inner.kind", "c", "config.inner.kind is 'c'; it must be one of 'a', 'b'"),
        ("inner.patch", "4", "config.inner.patch is 4; a tuple"),
        ("inner.limit", "True", "config.inner.limit is True"),
        ("inner.weights", "rot", "config.inner.weights is 'rot'; it must be one of 'root'"),
        ("inner.weights", "3", "config.inner.weights is 3; a tuple"),
        ("name.first", "1", "config.name is a value"),
    ],
)
def test_what_does_not_fit_is_named(file, key, value, message):
    with pytest.raises(InputError, match=message):
        config.build(Outer, config.load(file, {key: value}))


def test_a_section_that_the_file_leaves_out_can_be_given(file):
    """Otherwise a key of it, which has a default, is said to be none; what a person names is not made up."""
    given = {"more.rate": "2", "judged_elsewhere.strong.blur": "0.5", "perhaps.strong.blur": "0.1"}
    given |= {"named": "{'first': {}}", "named.first.rate": "3", "named.first.within.strong.blur": "0.2"}
    built = config.build(Outer, config.load(file, given, Outer))
    assert built.more == Inner(rate=2.0) and built.judged_elsewhere == {"strong": {"blur": 0.5}}
    assert built.perhaps == {"strong": {"blur": 0.1}}
    assert built.named == {"first": Inner(rate=3.0, within={"strong": {"blur": 0.2}})}
    with pytest.raises(InputError, match="config.more.rate is not a key"):
        config.load(file, {"more.rate": "2"})
    for key, value, message in (
        ("more.raet", "1", "config.more.raet is not a key of this config; did you mean config.more.rate"),
        ("more.rate", "fast", "config.more.rate is 'fast' .str.; float was expected"),
        ("mroe.rate", "1", "config.mroe.rate is not a key of this config; did you mean config.more.rate"),
        ("named.third.rate", "1", "config.named.third.rate is not a key"),
    ):
        with pytest.raises(InputError, match=message):
            config.build(Outer, config.load(file, {key: value}, Outer))


def test_resolved_config_reads_back_the_same(file, tmp_path):
    """A run's config.json can be run again as it is."""
    first = config.load(file, {"inner.patch": "(2, 2)"})
    (tmp_path / "config.json").write_text(config.to_json(first))
    again = config.load(str(tmp_path / "config.json"))
    assert config.build(Outer, again) == config.build(Outer, first)
    assert config.flat(again) == config.flat(first)


def test_missing_file_and_broken_file(tmp_path):
    with pytest.raises(InputError, match="none.py does not exist"):
        config.load(str(tmp_path / "none.py"))
    (tmp_path / "broken.py").write_text("def get_config(arg): return 1 / 0\n")
    with pytest.raises(InputError, match="broken.py does not run: ZeroDivisionError"):
        config.load(str(tmp_path / "broken.py"))
    (tmp_path / "empty.py").write_text("")
    with pytest.raises(InputError, match="defines no get_config"):
        config.load(str(tmp_path / "empty.py"))


def test_variants():
    assert config.variant("b16,224") == ("b", (16, 16), (224, 224))
    assert config.variant("nano8,160x96x96") == ("nano", (8, 8, 8), (160, 96, 96))
    with pytest.raises(InputError, match="VARIANT"):
        config.variant("b16")


def test_missing_key_is_named():
    with pytest.raises(InputError, match="config.inner is missing"):
        config.build(Outer, ConfigDict())
