"""A fuzzer of the readers: files changed at random, guided by the lines of code that they reach.

    pip install atheris
    python tests/fuzz/fuzz_readers.py dicom -max_total_time=60       (any option of libFuzzer)

A finding is what a stranger's file must not do: bring a scan's way from file to record to any end but a record or
the readers' own refusal (``Refused``, ``InputError``); crash the process; take over 2 s; or take more memory than
the largest legal scan in a file of that size twice over. Each kind of finding is told once, with its file in
``fuzz-findings/``, and the run goes on to its end, with exit code 1. A crash ends it at once (libFuzzer keeps the
file); so does a file that takes ten times as long, or 4 GiB.

``check`` is also what ``test_fuzz_readers.py`` calls with a fixed set of changes.
"""

import contextlib
import gzip
import importlib
import json
import os
import resource
import shutil
import struct
import sys
import tempfile
import time
import traceback
import unittest.mock
import zlib
from pathlib import Path

SECONDS = 2.0
# A file of 16 KiB may hold 18 MiB at the best compression (``vitmed.scans.limits``), which become numbers of up to
# 8 bytes on their way; twice that.
BYTES = 300 * 2**20
MAX_LEN = 16384
# Whose lines guide the changes; all of pydicom and Pillow would take a minute to begin.
_GUIDED = [
    "pydicom.filereader",
    "pydicom.values",
    "pydicom.encaps",
    "nibabel.nifti1",
    "PIL.TiffImagePlugin",
    "PIL.PngImagePlugin",
]
_PLANS = ({}, {"spacing": (2.0, 2.0, 2.0), "size": (4, 4, 4)}, {"size": (6, 6)}, {"modality": "mr"})


class Finding(Exception):
    """What a file did that it must not do."""


def check(reader: str, data: bytes, folder: Path) -> str:
    """Takes one file's bytes from file to record; says how it ended, "read" or "refused".

    Args:
        data: the file, and one byte more that chooses among what a person can ask for (``_PLANS``, --frames).
        folder: empty, for the file; it is emptied again.

    Raises:
        Finding: as told above.
    """
    from seeds import BESIDE, SUFFIX

    data, way = data[:-1], data[-1] if data else 0
    name = "x" + SUFFIX.get(reader, f".{reader}")
    if reader == "png":
        data = _with_sums(data)
    if reader == "nifti" and way & 4:
        name, data = name + ".gz", gzip.compress(data, 1, mtime=0)
    path = folder / name
    path.write_bytes(data)
    if reader in ("mhd", "nhdr"):
        (folder / BESIDE).write_bytes(bytes(range(240)))
    _forget_peak()
    before, start = _peak(), time.process_time()
    try:
        return _record(reader, path, way)
    finally:
        taken, grown = time.process_time() - start, _peak() - before
        shutil.rmtree(folder)
        folder.mkdir()
        if sys.exc_info()[0] is None:
            if taken > SECONDS:
                raise Finding(f"took {taken:.1f} s")
            if grown > BYTES:
                raise Finding(f"took {grown / 2**20:.0f} MiB")


def inputs(files: list[bytes]) -> list[bytes]:
    """What ``check`` takes, of files: each with several choices."""
    return [data + bytes([way]) for data in files for way in (0, 1, 2, 8, 13, 17, 25)]


def _record(reader: str, path: Path, way: int) -> str:
    from vitmed.data.prepare import Plan, Task, prepare
    from vitmed.errors import InputError
    from vitmed.scans import arrays, find
    from vitmed.scans.how import How
    from vitmed.scans.measure import measure
    from vitmed.scans.scan import Refused

    def foreseen(function, *args):
        """What it gives, or None where it refuses in a way of its own."""
        try:
            return function(*args)
        except Refused as fault:
            if fault.reason == "cannot be read" and fault.__cause__ is not None:
                raise Finding(f"no reader expected {type(fault.__cause__).__name__}") from fault.__cause__
        except InputError:
            pass
        except (Exception, MemoryError) as error:
            raise Finding(f"{type(error).__name__}") from error

    if reader == "seg":
        return "read" if foreseen(_mask, path) is not None else "refused"
    unpack = path.parent / "unpacked"
    unpack.mkdir()
    how = How((None, "each", "channels", 2)[way & 3], ("localiser", "secondary"), unpack=str(unpack))
    sources, _ = (foreseen(arrays.unpack, str(path), unpack / "x") if reader == "npz" else None) or ([], {})
    held = foreseen(find.find, path, None, how)
    sources = (sources + held[0] if held else sources)[:4]
    plan = Plan(**_PLANS[way >> 3 & 3])
    ended = "refused"
    for source in sources:
        foreseen(measure, source)
        with _no_codestreams():
            if foreseen(prepare, Task(source), plan) is not None:
                ended = "read"
    return ended


@contextlib.contextmanager
def _no_codestreams():
    """In the place of the decoders of JPEG, JPEG-LS and JPEG 2000, one that gives zeros.

    A damaged codestream ends the process of some of them (``test_a_decoder_that_crashes_costs_one_scan``: in ingest
    it is not the main one), and a run of the fuzzer would end at the first. All that is around them is run.
    """
    import numpy as np
    from pydicom.uid import RLELossless

    from vitmed.scans import dicom_pixels

    class Zeros:
        is_available = True

        def as_array(self, data, index):
            colours = (data.SamplesPerPixel,) if data.SamplesPerPixel > 1 else ()
            pixels = np.zeros((data.Rows, data.Columns, *colours), f"u{data.BitsAllocated // 8}")
            told = {"number_of_frames": 1, "photometric_interpretation": data.PhotometricInterpretation}
            return pixels, told

    get = dicom_pixels.get_decoder

    def stand_in(syntax):
        return Zeros() if syntax.is_encapsulated and syntax != RLELossless else get(syntax)

    with unittest.mock.patch.object(dicom_pixels, "get_decoder", stand_in):
        yield


def _mask(path: Path):
    import numpy as np

    from vitmed.scans import dicom_seg
    from vitmed.scans.layout import Mask
    from vitmed.scans.scan import Scan

    seg = dicom_seg.look(str(path))
    affine = np.array([[0, 0, 1.0, 0], [0, 1, 0, 0], [2, 0, 0, 0], [0, 0, 0, 1]])
    scan = Scan(np.zeros((3, 8, 8, 1), np.int16), spacing=(2.0, 1.0, 1.0), affine=affine)
    named = tuple((label, i + 1) for i, label in enumerate(sorted(set(seg.labels.values()))))
    return dicom_seg.read(Mask((str(path),), values=named, segments=True), scan)


def _with_sums(data: bytes) -> bytes:
    """A PNG whose chunks have the sums that belong to them, without which nothing in them is looked at."""
    out, place = bytearray(data), 8
    while place + 12 <= len(data):
        (length,) = struct.unpack_from(">I", data, place)
        end = place + 8 + length
        if end + 4 > len(data):
            break
        out[end : end + 4] = struct.pack(">I", zlib.crc32(data[place + 4 : end]))
        place = end + 4
    return bytes(out)


def _forget_peak() -> None:
    """Sets the high-water mark of this process's memory to what it takes now (proc_pid_clear_refs(5))."""
    Path("/proc/self/clear_refs").write_text("5")


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def kind(found: Finding) -> str:
    """What findings are told apart by: what happened, and the last line of vitmed that it happened in."""
    cause = found.__cause__
    where = [
        f for f in traceback.extract_tb(cause.__traceback__ if cause else None) if "vitmed" in f.filename
    ]
    place = f"{Path(where[-1].filename).name}:{where[-1].lineno} {where[-1].name}" if where else ""
    what = str(found) if cause else str(found).split()[0]
    return f"{what} {place}".strip()


def main() -> int:
    import seeds

    every = seeds.all_of()
    if len(sys.argv) < 2 or sys.argv[1] not in every:
        print(f"{__doc__}\nReaders: {', '.join(every)}", file=sys.stderr)
        return 2
    reader = sys.argv[1]
    shm = Path("/dev/shm")
    work = Path(tempfile.mkdtemp(prefix="fuzz-", dir=shm if shm.is_dir() else None))
    try:
        child = os.fork()  # libFuzzer ends its process without a word to Python
        if child == 0:
            _fuzz(reader, every[reader], work)
        status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
        told = json.loads((work / "told").read_text()) if (work / "told").exists() else {}
    finally:
        shutil.rmtree(work)
    found = told.get("found", {})
    print(
        f"{reader}: {told.get('files', 0)} files, {told.get('read', 0)} of them read, {len(found)} kinds of findings "
        f"{found or ''}; exit code of libFuzzer {status}"
    )
    return 1 if found or status else 0


def _fuzz(reader: str, files: list[bytes], work: Path) -> None:
    """Runs libFuzzer, which ends this process; counts are in ``work/told`` meanwhile."""
    import atheris

    with atheris.instrument_imports(include=[f"vitmed.{room}" for room in ("scans", "data")] + _GUIDED):
        for name in ("arrays", "dicom", "dicom_seg", "images", "itk", "measure", "nifti"):
            importlib.import_module(f"vitmed.scans.{name}")
        importlib.import_module("vitmed.data.prepare")
    (work / "seeds").mkdir()
    (work / "in").mkdir()
    for i, data in enumerate(inputs(files)):
        (work / "seeds" / f"{i:03d}").write_bytes(data)
    counts = {"files": 0, "read": 0, "found": {}}
    findings = Path("fuzz-findings")

    def one(data: bytes) -> None:
        counts["files"] += 1
        try:
            counts["read"] += check(reader, data, work / "in") == "read"
        except Finding as finding:
            what = kind(finding)
            counts["found"][what] = counts["found"].get(what, 0) + 1
            if counts["found"][what] == 1:
                findings.mkdir(exist_ok=True)
                file = findings / f"{reader}-{zlib.crc32(what.encode()):08x}"
                file.write_bytes(data)
                print(f"FINDING {what} ({file})", file=sys.stderr)
                traceback.print_exception(finding.__cause__ or finding, file=sys.stderr)
        if counts["files"] % 50 == 0 or counts["found"]:
            (work / "told").write_text(json.dumps(counts))

    options = [
        f"-max_len={MAX_LEN}",
        f"-timeout={10 * SECONDS:.0f}",
        "-rss_limit_mb=4096",
        f"-artifact_prefix=fuzz-crash-{reader}-",
    ]
    atheris.Setup([sys.argv[0], *options, *sys.argv[2:], str(work / "seeds")], one)
    atheris.Fuzz()


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parent))
    sys.exit(main())
