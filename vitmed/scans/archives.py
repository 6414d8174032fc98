"""Zip archives of scans, unpacked where they may be, or refused.

What is refused: names that lead out of the folder, links, encrypted members, archives in archives, and those
that grow far more than scans do (a zip bomb). A name is a stranger's; nothing is written outside ``folder``.
"""

import os
import stat
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from vitmed.progress import Bar
from vitmed.scans import limits
from vitmed.scans.scan import Refusals, Refused

MAX_GROWTH = 100  # times the archive; DICOM grows two to five times
MIN_BYTES = 64 * 2**20  # growth up to this does no harm
MAX_MEMBERS = 1_000_000
_PIECE = 2**20  # bytes unpacked at a time
_LONG = 2**28  # bytes that take long enough to be counted on standard error while they are unpacked


def unpack(path: str, folder: Path, quiet: bool = True) -> tuple[list[tuple[Path, str]], Refusals]:
    """Unpacks an archive into ``folder``, which is made. Files get the archive's time of change, so that they are known
    again when it is unpacked anew.

    Args:
        quiet: do not show how far a large one is.

    Returns:
        (file, name in the archive) of each member, and (name, reason, detail) of those left out.

    Raises:
        Refused: the whole archive, of which nothing is then written.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not all(m.filename for m in archive.infolist()):
                raise Refused("not a readable zip archive", "it has a member without a name")
            members = [m for m in archive.infolist() if not m.is_dir()]
            _check(members, os.path.getsize(path))
            members = [m for m in members if not _beside(m.filename)]
            folder.mkdir(parents=True)
            with counting(path, members, quiet) as bar:
                return _members(archive, members, folder, os.stat(path).st_mtime_ns, bar)
    except OSError as error:
        if error.errno in limits.DISK:
            raise
        raise Refused("cannot be opened", error.strerror or str(error)) from None
    except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError) as error:
        raise Refused("not a readable zip archive", str(error)) from None


def total(path: str, most: int) -> None:
    """Refuses a zip file (an ``.npz`` is one) whose members declare more than ``most`` bytes, or grow too much.

    Raises:
        Refused: so.
        OSError, zipfile.BadZipFile: not a readable zip file.
    """
    with zipfile.ZipFile(path) as archive:
        size = sum(m.file_size for m in archive.infolist())
        if size > most or any(
            m.file_size > limits.MAX_RATIO * m.compress_size + 65536 for m in archive.infolist()
        ):
            raise Refused(
                "declares more than it holds", f"{size} bytes unpacked, {os.path.getsize(path)} packed"
            )


def extract(archive: zipfile.ZipFile, member: zipfile.ZipInfo, target: Path, changed: int, bar: Bar) -> None:
    """Unpacks one member into ``target``, a new file, whose time of change is then ``changed`` (nanoseconds).

    Raises:
        OSError, zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError: as Python has them.
    """
    with archive.open(member) as packed, open(target, "xb") as file:
        while piece := packed.read(_PIECE):  # never more than the member declares
            file.write(piece)
            bar.advance(len(piece))
    os.utime(target, ns=(changed, changed))


def counting(path: str, members: list[zipfile.ZipInfo], quiet: bool) -> Bar:
    """Shows how much of these members of an archive is unpacked, where that takes long."""
    size = sum(m.file_size for m in members)
    return Bar(f"unpacking {os.path.basename(path)}", size, "MB", quiet=quiet or size < _LONG, per=2**20)


def _check(members: list[zipfile.ZipInfo], packed: int) -> None:
    if len(members) > MAX_MEMBERS:
        raise Refused("zip bomb", f"{len(members)} members")
    for member in members:
        parts = PurePosixPath(member.filename.replace("\\", "/"))
        if parts.is_absolute() or ".." in parts.parts or (parts.parts and parts.parts[0].endswith(":")):
            raise Refused("archive that leads outside its folder", f"it has a member {member.filename!r}")
    size = sum(m.file_size for m in members)
    if size > MIN_BYTES and size > MAX_GROWTH * packed:
        raise Refused("zip bomb", f"{packed} bytes that unpack to {size}")


def _members(archive: zipfile.ZipFile, members: list[zipfile.ZipInfo], folder: Path, changed: int, bar: Bar):
    kept, refused = [], []
    for member in members:
        name = PurePosixPath(member.filename).as_posix()  # without the "./" that some packers begin with
        try:
            if stat.S_ISLNK(member.external_attr >> 16):
                raise Refused("link in an archive")
            if member.flag_bits & 1:
                raise Refused("encrypted member of an archive", "unpack it yourself")
            if name.lower().endswith(".zip"):
                raise Refused("archive in an archive", "unpack it yourself")
            if member.file_size > limits.MAX_BYTES:
                raise Refused("too large", f"{member.file_size} bytes")
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            extract(archive, member, target, changed, bar)
            kept.append((target, name))
        except Refused as fault:
            refused.append((name, fault.reason, fault.detail))
        except FileExistsError:
            refused.append((name, "two members of one name", ""))
        except (zipfile.BadZipFile, zlib.error, NotImplementedError, EOFError, ValueError) as error:
            (folder / name).unlink(missing_ok=True)
            refused.append((name, "broken member of an archive", str(error)))
        except OSError as error:
            if error.errno in limits.DISK:
                raise
            refused.append((name, "cannot be unpacked", error.strerror or str(error)))
    return kept, refused


def _beside(name: str) -> bool:
    """Hidden files, and what macOS packs along."""
    return any((part.startswith(".") and part != ".") or part == "__MACOSX" for part in name.split("/"))
