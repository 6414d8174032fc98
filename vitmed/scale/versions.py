"""Whether the packages here lie in the windows that vitmed declares, which are what its tests pass on."""

import importlib.metadata
import platform

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from vitmed.scale.findings import Finding


def versions() -> list[Finding]:
    """Python, every declared requirement, and JAX's own parts beside it."""
    try:
        own = importlib.metadata.metadata("vitmed")
    except importlib.metadata.PackageNotFoundError:
        return [
            Finding(
                "versions",
                "note",
                "vitmed is run from a folder without being installed, so it declares no versions",
                "pip install -e . there",
            )
        ]
    found = [_python(own["Requires-Python"] or ""), *map(_package, _required()), _jaxlib()]
    odd = [finding for finding in found if finding.state != "fine"]
    return odd or [
        Finding("versions", "fine", f"Python and {len(found) - 2} packages are of the versions tested")
    ]


def _required() -> list[Requirement]:
    declared = map(Requirement, importlib.metadata.requires("vitmed") or ())
    return [one for one in declared if one.marker is None or one.marker.evaluate({"extra": ""})]


def _python(window: str) -> Finding:
    version = platform.python_version()
    if SpecifierSet(window).contains(version, prereleases=True):
        return Finding("versions", "fine", f"Python {version}")
    return Finding("versions", "breaks", f"Python is {version}", f"use one that is {window}")


def _package(wanted: Requirement) -> Finding:
    here = f"pip install '{wanted.name}{wanted.specifier}'"
    try:
        version = importlib.metadata.version(wanted.name)
    except importlib.metadata.PackageNotFoundError:
        return Finding("versions", "breaks", f"{wanted.name} is not installed", here)
    if wanted.specifier.contains(version, prereleases=True):
        return Finding("versions", "fine", f"{wanted.name} {version}")
    window = str(wanted.specifier)
    return Finding("versions", "breaks", f"{wanted.name} is {version}; vitmed is tested with {window}", here)


def _jaxlib() -> Finding:
    """jax refuses a jaxlib newer than itself; a plugin of another version fails at the first operation."""
    jax = importlib.metadata.version("jax")
    others = [name for name in ("jaxlib", *_plugins()) if importlib.metadata.version(name) != jax]
    if not others:
        return Finding("versions", "fine", f"jax and its parts are {jax}")
    named = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in others)
    return Finding(
        "versions", "breaks", f"jax is {jax}, but {named} beside it", f"pip install -U 'jax[cuda12]=={jax}'"
    )


def _plugins() -> list[str]:
    names = {d.metadata["Name"] or "" for d in importlib.metadata.distributions()}
    return sorted(name for name in names if name.startswith("jax-cuda"))
