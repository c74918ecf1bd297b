"""The picture that a request's body holds: the body itself, or the one file of a multipart form; all in memory."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.exceptions import HTTPException

FIELD = "image"
NAMELESS = "upload"
MAX_PARTS = 8
MAX_NAME_LENGTH = 255
_BOUNDARY = re.compile(rb"[ -~]{1,70}")  # RFC 2046: 70 characters at most
HOW_TO_SEND = f"send multipart/form-data with the photo in the field {FIELD!r}, or the photo itself as image/jpeg or the like"


@dataclass(frozen=True)
class Upload:
    """A picture file as sent. name: its own, without folders, or NAMELESS."""

    name: str
    data: bytes


def body_parser(content_type: str) -> Callable[[bytes], Upload]:
    """What makes an Upload of a body of this type.

    Raises HTTPException 415 on a type that holds no picture, 400 on a multipart form without a boundary. What it
    returns raises 400 on a broken form, 422 on one without the photo.
    """
    kind, options = parse_options_header(content_type)
    if kind == b"multipart/form-data":
        boundary = options.get(b"boundary", b"")
        if not _BOUNDARY.fullmatch(boundary):
            raise HTTPException(
                400, "the multipart body's boundary is missing or no valid one; name it in Content-Type"
            )
        return lambda body: _from_form(body, boundary)
    if kind.startswith(b"image/") or kind == b"application/octet-stream":
        return lambda body: Upload(NAMELESS, body)
    raise HTTPException(415, f"a body of this Content-Type holds no photo; {HOW_TO_SEND}")


@dataclass
class _Part:
    """A part of a form: its headers, and where in the body its data lie."""

    headers: dict[bytes, bytes] = field(default_factory=dict)
    data_spans: list[tuple[int, int]] = field(default_factory=list)


def _parts(body: bytes, boundary: bytes) -> list[_Part]:
    """The parts of a form, no more than MOST_PARTS. Raises HTTPException 400."""
    parts: list[_Part] = []
    name, value, whole = bytearray(), bytearray(), False

    def begin() -> None:
        if len(parts) == MAX_PARTS:
            raise HTTPException(400, f"the multipart body has more than {MAX_PARTS} parts; send the photo alone")
        parts.append(_Part())

    def header_end() -> None:
        parts[-1].headers[bytes(name).lower()] = bytes(value)
        name.clear()
        value.clear()

    def end() -> None:
        nonlocal whole
        whole = True

    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": begin,
            "on_header_field": lambda data, start, stop: name.extend(data[start:stop]),
            "on_header_value": lambda data, start, stop: value.extend(data[start:stop]),
            "on_header_end": header_end,
            "on_part_data": lambda data, start, stop: parts[-1].data_spans.append((start, stop)),
            "on_end": end,
        },
    )
    try:
        parser.write(body)  # at once, so that the spans are places in the body
    except FormParserError as error:
        raise HTTPException(400, "the multipart body is broken; send it as a browser or curl -F does") from error
    if not whole:
        raise HTTPException(400, "the multipart body is cut off; send it whole")
    return parts


def _from_form(body: bytes, boundary: bytes) -> Upload:
    found: list[tuple[str, _Part]] = []
    for part in _parts(body, boundary):
        _, options = parse_options_header(part.headers.get(b"content-disposition"))
        if options.get(b"name") == FIELD.encode():
            found.append((_safe_name(options.get(b"filename", b"")), part))
    if len(found) != 1:
        many = "no field" if not found else "several fields"
        raise HTTPException(422, f"the form has {many} {FIELD!r}; send one photo in it")
    name, part = found[0]
    return Upload(name, b"".join(body[start:stop] for start, stop in part.data_spans))


def _safe_name(raw: bytes) -> str:
    """A file's name without folders and control characters, so that it is fit for one line."""
    name = re.split(r"[/\\]", raw.decode("utf-8", "replace"))[-1]
    clean = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in name)
    return clean[:MAX_NAME_LENGTH] or NAMELESS
