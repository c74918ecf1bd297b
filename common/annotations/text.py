"""Read the text of annotation files, and XML, in the encodings that tools write."""

from __future__ import annotations

import codecs
import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

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
# Names in XML declarations, without case and signs, whose files hold more characters than the name allows: the codecs
# that browsers use instead (WHATWG Encoding Standard), of which each is a superset.
_SUPERSETS = {
    **dict.fromkeys(("euckr", "ksc5601", "ksc56011987", "ksx1001", "uhc", "windows949"), ("cp949",)),
    **dict.fromkeys(("gb2312", "gbk", "gb231280", "cp936", "euccn", "windows936"), ("gb18030",)),
    **dict.fromkeys(("shiftjis", "sjis", "xsjis", "windows31j", "mskanji", "windows932"), ("cp932",)),
    **dict.fromkeys(("big5", "cnbig5", "windows950"), ("cp950", "big5hkscs")),
    **dict.fromkeys(("iso88591", "latin1"), ("cp1252", "latin-1")),
    **dict.fromkeys(("ascii", "usascii", "utf8", "utf16", "utf16le", "utf16be", "unicode"), ()),  # UTF-8, unless marked
}
_HEAD_BYTES = 4096
_DECLARATION = re.compile(r"\A\s*<\?xml\b[^>]*\?>")
_ENCODING = re.compile(rb"\s*<\?xml\b[^>]*\bencoding\s*=\s*[\"']([A-Za-z0-9._:\- ]+)[\"']")


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


class XmlError(ValueError):
    """XML that cannot be used; the message says why."""


def read_xml(file: Path) -> Element:
    """Return the root of an XML file; entities are not expanded.

    The declared encoding is used, also one that XML parsers do not know. Blank lines may come before the declaration.

    Raises:
        XmlError: the file is not XML, or declares entities.
        EncodingError: the file is not text in the encoding that it declares.
        OSError: the file cannot be read.
    """
    text = _DECLARATION.sub("", _decode_xml(file.read_bytes()))
    try:
        root: Element = fromstring(text)
    except DefusedXmlException as error:
        raise XmlError(f"declares XML entities ({type(error).__name__}), which are not expanded") from error
    except (ParseError, ValueError) as error:
        raise XmlError(f"malformed XML ({error})") from error
    return root


def xml_root_tag(file: Path) -> str | None:
    """Return the name of the first element in an XML file, or None where its start has none."""
    try:
        with file.open("rb") as opened:
            head = opened.read(_HEAD_BYTES).replace(b"\0", b"")  # UTF-16, too
    except OSError:
        return None
    found = re.search(rb"<([A-Za-z_][\w.-]*)", re.sub(rb"<!--.*?(-->|$)", b"", head, flags=re.DOTALL))
    return found[1].decode("ascii") if found else None


def _decode_xml(data: bytes) -> str:
    """Return XML as text, in the encoding that its declaration names, else as `decode_text` does."""
    found = _ENCODING.match(data)
    if found is None:
        wide = {b"<\0": "utf-16-le", b"\0<": "utf-16-be"}.get(data[:2])  # without a byte order mark
        return data.decode(wide, "replace") if wide else decode_text(data)
    declared = found[1].decode("ascii").strip()
    names = _SUPERSETS.get(re.sub("[^a-z0-9]", "", declared.lower()), (declared,))
    if not names or _is_utf8_beyond(data):
        return decode_text(data)
    for name in names:
        try:
            return data.decode(name)
        except UnicodeDecodeError:
            continue
        except (LookupError, ValueError) as error:
            what = f"declares the unknown encoding {declared}; save it as UTF-8, without that declaration"
            raise EncodingError(what) from error
    raise EncodingError(f"declares the encoding {declared}, but is not such text; export it again as UTF-8")


def _is_utf8_beyond(data: bytes) -> bool:
    """Return whether bytes are UTF-8 with a character of three bytes, such as a Korean or Chinese one.

    Text of other encodings is hardly ever that. Converters to UTF-8 (iconv) leave the old declaration in the file.
    """
    try:
        return any(char >= "\u0800" for char in data.decode("utf-8"))
    except UnicodeDecodeError:
        return False


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
