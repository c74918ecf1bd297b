"""Read the XML of annotation files, in the encodings that tools declare."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree.ElementTree import ParseError

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from common.annotations.text import EncodingError, decode_text

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

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
