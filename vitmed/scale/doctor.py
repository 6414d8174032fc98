"""``vitmed doctor``: what will break a training on this machine, or in this job, and what to do about it."""

import dataclasses
import socket
import time
import uuid
from pathlib import Path
from typing import Any

from vitmed.parallel import processes
from vitmed.scale import devices_check, folder_check, surroundings, versions
from vitmed.scale.findings import Finding, report

SKEW = 1.0  # seconds that clocks may differ before ages of files and orders of logs mislead
TIMES = 5


def doctor(workdir: Path) -> dict[str, Any]:
    """Every check, by all processes of the job where a launcher started several.

    Returns:
        ``fine`` (nothing breaks) and ``findings`` [{"check", "state", "found", "todo"}]: those of process 0, and of the
        others what is not fine, by name.
    """
    own = [
        *versions.versions(),
        *surroundings.variables(),
        *surroundings.limits(),
        *folder_check.folder(workdir, processes.index()),
    ]
    started = devices_check.starts()
    own += started
    together = []
    if _all(all(finding.state != "breaks" for finding in started)):
        together = devices_check.collectives()
    if processes.count() > 1:
        together += [_shared(folder_check.nearest(workdir)), _clocks()]
    return report([*own, *together, *_of_others(own + together)])


def _all(fine: bool) -> bool:
    """Whether every process says so: a collective that one of them does not come to would hang the others."""
    return all(processes.share(fine))


def _of_others(own: list[Finding]) -> list[Finding]:
    """What the other processes found and is not fine."""
    told = [dataclasses.asdict(finding) for finding in own if finding.state != "fine"]
    made = []
    for number, (host, findings) in enumerate(processes.share([socket.gethostname(), told])):
        if number != processes.index():
            made += [
                Finding(**{**one, "found": f"process {number} on {host}: {one['found']}"})
                for one in findings
                if Finding(**one) not in own
            ]
    return made


def _shared(place: Path) -> Finding:
    """Whether all processes see one folder there."""
    token = processes.first(lambda: uuid.uuid4().hex)
    mine = place / f".doctor-{token}-{processes.index()}"
    try:
        mine.touch()
        processes.share(None)
        wanted = {f".doctor-{token}-{number}" for number in range(processes.count())}
        seen = _sees(place, wanted)
        everyone = processes.share(seen)
    finally:
        mine.unlink(missing_ok=True)
    if all(everyone):
        return Finding("folder", "fine", f"{place} is one folder for all {processes.count()} processes")
    blind = ", ".join(str(number) for number, saw in enumerate(everyone) if not saw)
    return Finding(
        "folder",
        "breaks",
        f"{place} is not shared: process {blind} does not see what the others write there",
        "give a --workdir on a file system that all machines mount",
    )


def _sees(place: Path, wanted: set[str], seconds: float = 10.0) -> bool:
    """A network's file system may need some time to show what another machine wrote."""
    ends = time.monotonic() + seconds
    while not wanted <= {file.name for file in place.iterdir()}:
        if time.monotonic() > ends:
            return False
        time.sleep(0.2)
    return True


def _clocks() -> Finding:
    """How much the clocks differ, at the most: each is read as all processes leave one meeting."""
    spreads = []
    for _ in range(TIMES):
        processes.share(None)
        clocks = processes.share(time.time())
        spreads.append(max(clocks) - min(clocks))
    text = f"clocks differ by {min(spreads) * 1e3:.0f} ms at the most"
    if min(spreads) > SKEW:
        return Finding("clocks", "note", text, "run an NTP client (chrony) on every machine")
    return Finding("clocks", "fine", text)
