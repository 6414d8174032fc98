"""What a check of the machine found, and what to do about it."""

from dataclasses import asdict, dataclass
from typing import Literal

State = Literal["fine", "note", "breaks"]


@dataclass(frozen=True)
class Finding:
    """One finding.

    Attributes:
        check: what was looked at, in a word or two.
        state: "fine"; "note" is worth knowing; "breaks" is what a training will end with, or give wrong results by.
        found: one sentence, with values and units.
        todo: what to do about it; "" where nothing is to be done.
    """

    check: str
    state: State
    found: str
    todo: str = ""

    def __post_init__(self):
        if self.state == "breaks" and not self.todo:
            raise ValueError(f"{self.check} breaks, and nobody says what to do: {self.found}")


def report(findings: list[Finding]) -> dict:
    """``{"fine": whether nothing breaks, "findings": [...]}``."""
    return {
        "fine": all(finding.state != "breaks" for finding in findings),
        "findings": [asdict(finding) for finding in findings],
    }
