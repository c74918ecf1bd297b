"""Read the text of annotation files, in the encodings that tools write."""

from __future__ import annotations

import codecs
import re
from pathlib import Path

# Longest first: the UTF-32 mark begins with that of UTF-16.
_MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
# What Windows tools write where the system's language is not English, and what such text looks like when it is decoded:
# the letters of one language. Each codec is the superset of its family.
_LEGACY = {
    "cp949": ("Korean", r"[\x00-\x7f\uac00-\ud7a3]+"),
    "gb18030": ("Chinese", r"[\x00-\x7f\u3001-\u300f\u4e00-\u9fff\uff00-\uff1f]+"),
    "cp932": ("Japanese", r"[\x00-\x7f\u4e00-\u9fff]*[\u3041-\u30ff][\x00-\x7f\u3001-\u30ff\u4e00-\u9fff]*"),
    "big5": ("traditional Chinese", r"[\x00-\x7f\u3001-\u300f\u4e00-\u9fff\uff00-\uff1f]+"),
    "cp1251": ("Cyrillic", r"([\x00-\x7f]|(?<![A-Za-z])[\u0401\u0410-\u044f\u0451]+(?![A-Za-z]))+"),
    "cp1252": ("Western European", r"([\x00-\x7f]|(?<![\u00c0-\u00ff])[\u00c0-\u00ff](?![\u00c0-\u00ff]))+"),
}
BIG5_FREQUENT = 0xC6  # the last lead byte of the frequent characters (level 1 of Big5)


class EncodingError(ValueError):
    """Text in an unknown encoding; the message says which it may be and how to convert it."""


def read_text(file: Path) -> str:
    """Return a text file's content.

    UTF-8, and UTF-16 or UTF-32, with or without a byte order mark, are read. Other encodings are not guessed: the same
    bytes are text in several of them, and class names would be wrong without a sign.

    Raises:
        EncodingError: the text is in another encoding.
        OSError: the file cannot be read.
    """
    return decode_text(file.read_bytes())


def decode_text(data: bytes) -> str:
    """Return bytes as text, as `read_text` does."""
    encoding = next((name for mark, name in _MARKS if data.startswith(mark)), None) or _encoding_by_zeros(data)
    try:
        return data.decode(encoding or "utf-8")
    except UnicodeDecodeError as error:
        fitting = [] if encoding else [name for name, (_, look) in _LEGACY.items() if _looks_like(data, name, look)]
        if "gb18030" in fitting and "big5" in fitting:
            fitting.remove("big5")  # the more frequent one of the two
        if not fitting:
            raise EncodingError("is not UTF-8 text; save it or export it again as UTF-8") from error
        names = " or ".join(f"{name.upper()} ({_LEGACY[name][0]})" for name in fitting)
        fix = f"convert it: iconv -f {fitting[0].upper()} -t UTF-8"
        raise EncodingError(f"is not UTF-8 text; it looks like {names}; {fix}") from error


def _encoding_by_zeros(data: bytes) -> str | None:
    """Return "utf-16-le" or "utf-16-be" for text in UTF-16 without a mark: of ASCII characters, one byte is 0."""
    head = data[:200]
    if len(head) < 4 or len(data) % 2:
        return None
    odd, even = head[1::2].count(0), head[::2].count(0)  # names in other letters may be among the ASCII
    if max(odd, even) * 4 < len(head) // 2 or min(odd, even) * 8 > max(odd, even):
        return None
    return "utf-16-le" if odd > even else "utf-16-be"


def _looks_like(data: bytes, encoding: str, look: str) -> bool:
    """Return whether bytes are text in an encoding, with the letters of its language only."""
    try:
        text = data.decode(encoding)
        if encoding == "gb18030":
            text.encode("gb2312")  # the characters in use; GB18030 has rare ones for almost all bytes
    except UnicodeError:
        return False
    if encoding == "big5" and any(character.encode("big5")[0] > BIG5_FREQUENT for character in text):
        return False
    return re.fullmatch(look, text) is not None
