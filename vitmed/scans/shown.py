"""Whether a text, such as a part of a path, shows a value that may tell who a person is."""

import functools
import os
import re
import unicodedata
from collections.abc import Iterable

_SHORT = 4  # a value of fewer letters is looked for as a whole word only
_BESIDE = re.compile(r"[\W_]+")


def shows(text: str, values: Iterable[str]) -> bool:
    """Whether one of ``values`` is written in ``text``, whatever its case and punctuation.

    A value of fewer than four letters and digits counts only as a whole word of ``text``.
    """
    written = _written(text)
    return any(_stands(_squash(value), *written) for value in values)


def shown(path: str, values: Iterable[str]) -> tuple[str, ...]:
    """Those of ``values`` that a part of ``path`` shows, as ``shows`` has it."""
    folder, name = os.path.split(path)
    there, here = _parts(folder), _written(name)
    squashed = ((value, _squash(value)) for value in values)
    return tuple(value for value, wanted in squashed if _stands(wanted, *there) or _stands(wanted, *here))


def _stands(wanted: str, whole: str, words: frozenset[str]) -> bool:
    """Whether what ``_squash`` made of a value is in what ``_written`` made of a text."""
    return bool(wanted) and (wanted in words or (len(wanted) >= _SHORT and wanted in whole))


@functools.lru_cache(maxsize=4096)
def _written(text: str) -> tuple[str, frozenset[str]]:
    """A text without case and punctuation, and the words in it, also those that digits and letters part."""
    words = set(re.findall(r"[^\W_]+", _plain(text)))
    return _squash(text), frozenset(words | {run for word in words for run in re.findall(r"\d+|\D+", word)})


@functools.lru_cache(maxsize=256)  # a folder comes again with every file in it
def _parts(folder: str) -> tuple[str, frozenset[str]]:
    """The same of a folder's path, where nothing is found across a slash."""
    parts = [_written(part) for part in folder.split(os.sep)]
    return "/".join(whole for whole, _ in parts), frozenset().union(*(words for _, words in parts))


@functools.lru_cache(maxsize=4096)  # values come again with every file of a patient
def _squash(text: str) -> str:
    return _BESIDE.sub("", _plain(text))


def _plain(text: str) -> str:
    """A text whatever its case and however its letters are put together: macOS writes ü as u and two dots."""
    return unicodedata.normalize("NFKC", text).casefold()
