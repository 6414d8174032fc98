"""Elements of a DICOM header as text and numbers, taken from their raw bytes.

Converting a header of a hundred elements to Python objects costs more than reading the pixels, and only some
twenty are needed.
"""

import functools
import hashlib
import re

from pydicom.datadict import dictionary_has_tag, dictionary_VR, keyword_for_tag
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.multival import MultiValue

from vitmed.scans.scan import Refused

# Private elements that hold the b-value of makers' older images: creator, group and element, within its block.
_B_VALUES = (
    ("SIEMENS MR HEADER", 0x0019, 0x0C),
    ("Philips Imaging DD 001", 0x2001, 0x03),
    ("GEMS_PARM_01", 0x0043, 0x39),
)


class Values:
    """Reads raw elements of a dataset as text and numbers."""

    def __init__(self, data: Dataset):
        self.data = data
        self._elements = {
            int(tag): element for tag, element in data.items()
        }  # by plain numbers: no look-up of names
        self._order = "little" if data.original_encoding[1] is not False else "big"

    def __contains__(self, tag: int) -> bool:
        return tag in self._elements

    def element(self, tag: int):
        return self._elements.get(tag)

    def text(self, tag: int) -> str:
        """A string without padding, "" where missing; several values keep their backslashes."""
        element = self.element(tag)
        if element is None or not element.value:
            return ""
        if isinstance(element, RawDataElement) and element.value.isascii():
            return element.value.decode("ascii").strip(" \0\r\n\t")
        value = self.data[tag].value  # by the file's character set
        value = "\\".join(map(str, value)) if isinstance(value, MultiValue) else str(value)
        return value.strip(" \0\r\n\t").encode("utf-8", "backslashreplace").decode()

    def mark(self, tag: int) -> str:
        """What is the same for the same text but does not hold it, "" where missing: of names, to tell them apart.

        Of the bytes as they are, since names are what character sets go wrong in. One person is written in capitals or
        not, with empty parts or without, and with or without the spellings that may follow the first (PS3.5 6.2.1.1):
        none of that counts.
        """
        element = self.element(tag)
        value = b"" if element is None or element.value is None else element.value
        value = (value if isinstance(value, bytes) else str(value).encode()).strip(b" \0^=")
        first = value.split(b"=")[0]
        if b"\x1b" not in first:  # after it, bytes of letters are halves of other characters (ISO 2022)
            words = first.decode("utf-8", "surrogateescape").casefold()
            value = " ".join(re.split("[ ^\0]+", words)).strip().encode("utf-8", "surrogateescape")
        return hashlib.blake2b(value, digest_size=8).hexdigest() if value else ""

    def numbers(self, tag: int) -> tuple[float, ...] | None:
        """The values of a decimal or integer string, or of a binary number; None where missing or empty.

        Raises:
            Refused: text that is no number.
        """
        element = self.element(tag)
        if element is None or element.value is None or element.value == b"":
            return None
        if isinstance(element, RawDataElement) and (element.VR or public_vr(tag)) in ("DS", "IS"):
            try:
                return tuple(float(part) for part in element.value.rstrip(b" \0").split(b"\\")) or None
            except ValueError:
                if not element.value.strip(b" \0"):
                    return None
                found = f"{keyword_for_tag(tag)} is {element.value[:40]!r}, not a number"
                raise Refused("broken DICOM header", found) from None
        value = self.data[tag].value
        if value is None or isinstance(value, bytes | str):
            return None
        return tuple(float(v) for v in (value if isinstance(value, MultiValue) else [value]))

    def number(self, tag: int) -> float | None:
        found = self.numbers(tag)
        return None if not found else found[0]

    def whole(self, tag: int, signed: int = 0) -> int | None:
        """A 16-bit number."""
        element = self.element(tag)
        if element is None or element.value in (None, b"", ""):
            return None
        if not isinstance(element, RawDataElement):
            return int(element.value)
        return int.from_bytes(element.value[:2], self._order, signed=bool(signed))

    def b_value(self) -> float | None:
        """Diffusion weighting in s/mm2, from the standard's element or the makers' own."""
        found = self.number(0x00189087)
        if found is not None:
            return found
        for creator, group, element in _B_VALUES:
            for block in range(0x10, 0x18):
                if group << 16 | block in self and self.text(group << 16 | block) == creator:
                    value = self.numbers(group << 16 | block << 8 | element)
                    return None if value is None else value[0] % 1e9  # GE adds 1e9 to some
        return None


@functools.lru_cache(maxsize=4096)
def public_vr(tag: int) -> str | None:
    """What DICOM PS3.6 says that an element is, None where it does not know it."""
    return dictionary_VR(tag) if dictionary_has_tag(tag) else None
