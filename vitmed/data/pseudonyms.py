"""Pseudonyms: what a person is called outside the dataset becomes a keyed hash inside it.

HMAC-SHA256 (RFC 2104) with a key that its owner keeps apart from the dataset: who has the key can tell which
pseudonym a known patient has (to append scans, or to withdraw the patient), and nobody else can, not even by
trying all numbers a hospital may have given. One key gives one patient the same pseudonym in every dataset.
"""

import contextlib
import hashlib
import hmac
import os
import re
import secrets
from collections.abc import Iterable
from pathlib import Path

from vitmed.errors import InputError, MachineError
from vitmed.scans.shown import shows

ENVIRONMENT = "VITMED_KEY"
_LENGTH = 32  # bytes
_DIGITS = 16  # of a pseudonym, hexadecimal: 64 bits, so that 100,000 patients do not meet by chance


class Key:
    """A secret that makes pseudonyms.

    Attributes:
        path: the file it was read from.
        made: whether that file was made just now.
        name: tells keys apart and gives nothing away: the first digits of the key's own hash.
    """

    def __init__(self, secret: bytes, path: Path, made: bool = False):
        self._secret, self.path, self.made = secret, path, made
        self.name = hashlib.sha256(b"vitmed key\0" + secret).hexdigest()[:8]

    def hide(self, kind: str, text: str) -> str:
        """The pseudonym of a ``patient``, ``site``, ...; "" stays "". Kinds do not share pseudonyms."""
        if not text:
            return ""
        digest = hmac.new(self._secret, f"{kind}\0{text}".encode(), hashlib.sha256).hexdigest()
        return digest[:_DIGITS]


def default_path() -> Path:
    """Where the key lies if nobody says otherwise: ``$VITMED_KEY``, or in the user's own configuration.

    Raises:
        InputError: the user has no home.
    """
    if os.environ.get(ENVIRONMENT):
        return Path(os.environ[ENVIRONMENT])
    try:
        home = Path(os.environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    except RuntimeError:
        raise InputError(
            "there is no home folder to keep the key of pseudonyms in; give --key FILE"
        ) from None
    return home / "vitmed" / "pseudonyms.key"


def open_key(path: str | Path | None = None, make: bool = True) -> Key:
    """Reads the key in ``path`` (``default_path()`` if None), made there on first use for its owner's eyes only.

    Raises:
        InputError: the file holds no key, or there is none and ``make`` is false.
        MachineError: it cannot be written.
    """
    path = default_path() if path is None else Path(path)
    made = False
    if make and not path.exists():
        made = _make(path)
    try:
        text = path.read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(
            f"the key of pseudonyms {path} cannot be read ({error}); give --key the file that ingest named"
        ) from None
    if not re.fullmatch(rf"[0-9a-f]{{{2 * _LENGTH}}}", text):
        raise InputError(f"{path} is not a key of pseudonyms: {2 * _LENGTH} hexadecimal digits were expected")
    return Key(bytes.fromhex(text), path, made)


def same_key(key: Key, name: str | None) -> None:
    """Makes sure that ``key`` is the one called ``name`` (None: any).

    Raises:
        InputError: it is another.
    """
    if name is not None and key.name != name:
        raise InputError(
            f"{key.path} is key {key.name}, but the dataset was made with key {name}; give that one as --key"
        )


def _make(path: Path) -> bool:
    draft = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        handle = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(handle, "w") as file:
            file.write(secrets.token_hex(_LENGTH) + "\n")
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(draft, path)  # whole or not at all, and never over a key that another process has made
            return True
        except FileExistsError:
            return False
    except OSError as error:
        raise MachineError(f"the key of pseudonyms cannot be written to {path}: {error.strerror}") from None
    finally:
        with contextlib.suppress(OSError):
            draft.unlink()


def public(path: str, values: Iterable[str], key: Key) -> str:
    """A scan's path with each part of it that shows one of ``values`` replaced by a pseudonym."""
    values = tuple(values)
    return "/".join(
        f"~{key.hide('path', part)}{_suffix(part)}" if shows(part, values) else part
        for part in path.split("/")
    )


def hidden(path: str, key: Key) -> str:
    """A path of which nothing may be shown but its suffix."""
    return f"~{key.hide('path', path)}{_suffix(path)}"


def hidden_parts(path: str) -> set[str]:
    """The parts of a path that are pseudonyms."""
    return {part for part in path.split("/") if re.match(rf"~[0-9a-f]{{{_DIGITS}}}", part)}


def _suffix(name: str) -> str:
    found = re.search(
        r"(\.nii)?\.(gz|png|jpe?g|tiff?|bmp|npy|nii|mha|mhd|nrrd|nhdr|dcm|dicom|ima)$", name.lower()
    )
    return found.group(0) if found else ""
