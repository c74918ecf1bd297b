"""Read the text of annotation files in the encodings that tools write."""

from __future__ import annotations

import codecs
from pathlib import Path

# Longest first: the UTF-32 mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What Windows tools write where the system's language is not English. Each is the superset of its family.
_LEGACY = {
    "cp949": "Korean",
    "gb18030": "Chinese",
    "cp932": "Japanese",
    "big5": "traditional Chinese",
    "cp1251": "Cyrillic",
    "cp1252": "Western European",
}


class EncodingError(ValueError):
    """Text in an unknown encoding; the message says which it may be and how to convert it."""


def read_text(file: Path) -> str:
    """Return a text file's content.

    UTF-8, and UTF-16 or UTF-32, with or without a byte order mark, are read. Other encodings are not guessed: the same
    bytes are text in several of them, and class names would be wrong without a sign.

    Raises:
        EncodingError: the encoding is none of these.
        OSError: the file cannot be read.
    """
    return decode_text(file.read_bytes())


def decode_text(data: bytes) -> str:
    """Return bytes as text, as `read_text` does."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None) or _encoding_by_zeros(data)
    try:
        return data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        fitting = [] if encoding else [name for name in _LEGACY if _decodes(data, name)]
        if not fitting:
            raise EncodingError("is not UTF-8 text, nor of another known encoding; export it again as UTF-8") from error
        names = " or ".join(f"{name} ({_LEGACY[name]})" for name in fitting)
        fix = f"convert it: iconv -f {fitting[0]} -t utf-8"
        raise EncodingError(f"is not UTF-8 text but may be {names}; {fix}") from error


def _encoding_by_zeros(data: bytes) -> str | None:
    """Return "utf-16-le" or "utf-16-be" for ASCII text in UTF-16 without a mark: every second byte is 0."""
    head = data[:200]
    if len(head) < 4 or len(data) % 2:
        return None
    odd, even = head[1::2], head[::2]
    if odd.count(0) == len(odd) and even.count(0) == 0:
        return "utf-16-le"
    return "utf-16-be" if even.count(0) == len(even) and odd.count(0) == 0 else None


def _decodes(data: bytes, encoding: str) -> bool:
    """Return whether bytes are text in an encoding."""
    try:
        data.decode(encoding)
    except UnicodeDecodeError:
        return False
    return True
