"""Finds the photo in a request's body: the body itself, or the one file of a multipart form; all in memory.

The name of the file's field does not matter: clients send `image`, `file`, `photo` and more.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, MultipartState, parse_options_header
from starlette.exceptions import HTTPException

from pipeline.serve.parameters import check_fields, shown

FIELD = "image"  # the name in the documentation
NAMELESS = "upload"
MAX_PARTS = 8
MAX_NAME_LENGTH = 255
MAX_TEXT = 4096  # bytes; no photo is so short and printable
HOW_TO_SEND = "send multipart/form-data with the photo as its one file, or the photo itself as image/jpeg"
CURL = f"as in curl -F {FIELD}=@photo.jpg"
_EXTENDED_NAME = re.compile(rb";\s*filename\*\s*=\s*[\w-]*'[^']*'([^;\s]*)", re.IGNORECASE)  # RFC 5987
_BOUNDARY = re.compile(rb"[ -~]{1,70}")  # RFC 2046: at most 70 characters


@dataclass(frozen=True)
class Upload:
    """A photo file as sent."""

    name: str  # the file's name without folders; NAMELESS when the client sends none
    data: bytes  # the file


def body_parser(content_type: str) -> Callable[[bytes], Upload]:
    """Return the function that makes an Upload of a body.

    The function raises HTTPException: 400 on a broken form; 422 on a form without a file, with several files, or with
    further fields.

    Args:
        content_type: the request's Content-Type.

    Raises:
        HTTPException: 415 on a type that holds no photo, 400 on a multipart form without a valid boundary.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary", b"")
        if not _BOUNDARY.fullmatch(boundary):
            raise HTTPException(400, "the multipart boundary is missing or invalid; name it in Content-Type")
        return lambda body: _from_form(body, boundary)
    if kind.startswith(b"image/") or kind == b"application/octet-stream":
        return lambda body: Upload(NAMELESS, body)
    raise HTTPException(415, f"a body of this Content-Type holds no photo; {HOW_TO_SEND}")


@dataclass
class _Part:
    """A part of a form: its headers, and the spans of the body that hold its data."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    data_spans: list[tuple[int, int]] = field(default_factory=list)


def _parts(body: bytes, boundary: bytes) -> list[_Part]:
    """Return the parts of a form; raise HTTPException 400 on a broken form or more than MAX_PARTS parts."""
    parts: list[_Part] = []
    name, value = bytearray(), bytearray()

    def begin_part() -> None:
        if len(parts) == MAX_PARTS:
            raise HTTPException(400, f"the multipart body has more than {MAX_PARTS} parts; send the photo alone")
        parts.append(_Part())

    def end_header() -> None:
        parts[-1].headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": begin_part,
            "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
            "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
            "on_header_end": end_header,
            "on_part_data": lambda data, start, stop: parts[-1].data_spans.append((start, stop)),
        },
    )
    try:
        parser.write(body)  # in one piece, so that the spans are positions in the body
    except FormParserError as error:
        raise HTTPException(400, "the multipart body is broken; send it as a browser or curl -F does") from error
    if parser.state != MultipartState.END:
        raise HTTPException(400, "the multipart body is cut off; send it whole")
    return parts


def _from_form(body: bytes, boundary: bytes) -> Upload:
    """Return the one file of a form; raise HTTPException 422 without one, with several, or with further fields."""
    files: list[Upload] = []
    fields: list[str] = []
    for part in _parts(body, boundary):
        data = b"".join(body[start:stop] for start, stop in part.data_spans)
        _, options = parse_options_header(part.headers.get(b"content-disposition"))
        field_name, file_name = options.get(b"name", b"").decode("utf-8", "replace"), _file_name(part, options)
        if file_name is None and not (field_name == FIELD and not _is_text(data)):
            fields.append(field_name)
        elif file_name or data:  # a browser's form without a chosen file sends an empty one without a name
            files.append(Upload(_safe_name(file_name or b""), data))
    if not files:
        text = f" but text in the field {shown(fields[0])}" if fields else ""
        raise HTTPException(422, f"the form holds no file{text}; send one photo, {CURL}")
    if len(files) > 1:
        raise HTTPException(422, f"the form holds {len(files)} files; send one photo per request, {CURL}")
    check_fields(fields)
    return files[0]


def _file_name(part: _Part, options: dict[bytes, bytes]) -> bytes | None:
    """Return the name of a part's file, which may be empty; None for a part that is not a file."""
    if b"filename" in options:
        return options[b"filename"]
    extended = _EXTENDED_NAME.search(part.headers.get(b"content-disposition", b""))
    if extended:  # older clients send names with other letters in this form only
        return unquote_to_bytes(extended[1])
    kind, _ = parse_options_header(part.headers.get(b"content-type"))
    return b"" if kind.startswith(b"image/") or kind == b"application/octet-stream" else None


def _is_text(data: bytes) -> bool:
    """Return whether a part holds a short text, such as a file's name, instead of a file."""
    try:
        return len(data) <= MAX_TEXT and data.decode().isprintable()
    except UnicodeDecodeError:
        return False


def _safe_name(raw: bytes) -> str:
    """Return a file's name without folders and control characters, on one line."""
    name = re.split(r"[/\\]", raw.decode("utf-8", "replace"))[-1]
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return clean[:MAX_NAME_LENGTH] or NAMELESS
