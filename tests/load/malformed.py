"""Malformed HTTP requests of many kinds, made by chance from a seed: what to send to a server, step by step."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import Enum

from tests.load.server_process import Target

CRLF = b"\r\n"


class SendStep(Enum):
    """What a client does beside sending: END says that no more comes, RESET breaks the connection off."""

    HALF_CLOSE = "end"
    RESET = "reset"


Steps = list[bytes | float | SendStep]  # bytes are sent, numbers are seconds of silence


@dataclass(frozen=True)
class MalformedRequest:
    """A malformed request."""

    kind: str
    steps: Steps


@dataclass(frozen=True)
class RequestFuzzer:
    """Makes malformed requests.

    photo: a good JPEG, to be spoilt. max_bytes: the server's limit. slow: seconds after which it must have lost
    patience.
    """

    target: Target
    photo: bytes
    max_bytes: int
    slow_seconds: float
    rng: random.Random

    def requests(self, count: int) -> Iterator[MalformedRequest]:
        """So many of them, every kind as often as the others, in random order."""
        kinds = [kind for kind, _ in _KINDS]
        order = [kinds[i % len(kinds)] for i in range(count)]
        self.rng.shuffle(order)
        make = dict(_KINDS)
        for kind in order:
            yield MalformedRequest(kind, make[kind](self))

    def head(self, *lines: str, method: str = "POST", path: str = "/v1/detect", host: bool = True) -> bytes:
        """A request's head with these header lines."""
        own = [f"Host: {self.target.host}:{self.target.port}"] if host else []
        known = [f"{name}: {value}" for name, value in self.target.headers().items()]
        return "\r\n".join([f"{method} {path} HTTP/1.1", *own, *known, *lines, "", ""]).encode("latin-1")

    def post(self, body: bytes, kind: str | None = "image/jpeg", *lines: str, path: str = "/v1/detect") -> bytes:
        """A whole request that posts a body."""
        typed = [] if kind is None else [f"Content-Type: {kind}"]
        return self.head(f"Content-Length: {len(body)}", *typed, *lines, path=path) + body

    def form(self, data: bytes, disposition: str = 'form-data; name="image"; filename="a.jpg"') -> tuple[bytes, str]:
        """A multipart form with one part, and its Content-Type."""
        mark = f"mark{self.rng.randrange(10**9)}"
        part = f"--{mark}\r\nContent-Disposition: {disposition}\r\n\r\n".encode()
        return part + data + f"\r\n--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"

    def random_bytes(self, least: int, most: int) -> bytes:
        """Random bytes."""
        return self.rng.randbytes(self.rng.randint(least, most))

    def truncated(self, data: bytes) -> bytes:
        """The beginning of something, never nearly all of it."""
        return data[: self.rng.randint(1, len(data) * 3 // 4)]

    def chunks(self, *chunks: bytes) -> bytes:
        """A POST whose body is what these bytes say, as chunks."""
        return self.head("Transfer-Encoding: chunked", "Content-Type: image/jpeg") + b"".join(chunks)


def chunk(data: bytes) -> bytes:
    """A well-formed chunk."""
    return b"%x\r\n%s\r\n" % (len(data), data)


def png(width: int, height: int, *more: tuple[bytes, bytes]) -> bytes:
    """A PNG that claims a size, grey, with these further chunks."""

    def block(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = block(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(block(*each) for each in more) + block(b"IEND", b"")


_KINDS: list[tuple[str, Callable[[RequestFuzzer], Steps]]] = []


def _register(name: str) -> Callable[[Callable[[RequestFuzzer], Steps]], Callable[[RequestFuzzer], Steps]]:
    def add(make: Callable[[RequestFuzzer], Steps]) -> Callable[[RequestFuzzer], Steps]:
        _KINDS.append((name, make))
        return make

    return add


# ---- bodies that hold no photo


@_register("photo cut off")
def _(m: RequestFuzzer) -> Steps:
    return [m.post(m.truncated(m.photo))]


@_register("photo cut off in a form")
def _(m: RequestFuzzer) -> Steps:
    body, kind = m.form(m.truncated(m.photo))
    return [m.post(body, kind)]


@_register("noise as a photo")
def _(m: RequestFuzzer) -> Steps:
    start = m.rng.choice(
        [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBP"]
    )
    return [m.post(start + m.random_bytes(1, 5000), m.rng.choice(["image/jpeg", "image/png", "application/octet-stream"]))]


@_register("another kind of file")
def _(m: RequestFuzzer) -> Steps:
    texts = [
        b"%PDF-1.7\n",
        b"PK\3\4",
        b"<!doctype html>",
        b"<svg xmlns='x'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"\x7fELF",
    ]
    return [m.post(m.rng.choice(texts) + b" " * m.rng.randint(0, 999))]


@_register("empty body")
def _(m: RequestFuzzer) -> Steps:
    return [m.post(b"") if m.rng.random() < 0.5 else m.post(*m.form(b""))]


@_register("wrong type")
def _(m: RequestFuzzer) -> Steps:
    kinds = ["text/plain", "application/json", "application/x-www-form-urlencoded", "video/mp4", "*/*", ";", "", None]
    return [m.post(m.photo, m.rng.choice(kinds))]


@_register("compressed body")
def _(m: RequestFuzzer) -> Steps:
    return [
        m.post(zlib.compress(m.photo), "image/jpeg", f"Content-Encoding: {m.rng.choice(['gzip', 'deflate', 'br'])}")
    ]


# ---- bombs


@_register("bomb: a head that claims many pixels")
def _(m: RequestFuzzer) -> Steps:
    side = m.rng.choice([20_000, 65_535, 2**31 - 1])
    rows = zlib.compress(bytes(100_000), 9)
    bombs = [
        png(side, side, (b"IDAT", rows)),
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0),
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 10**6, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0),
        f"P6 {side} {side} 255\n".encode() + bytes(1000),
        b"qoif" + struct.pack(">IIBB", side, side, 3, 0) + bytes(1000),
    ]
    return [m.post(m.rng.choice(bombs), "application/octet-stream")]


@_register("bomb: compressed text in a PNG")
def _(m: RequestFuzzer) -> Steps:
    text = b"Comment\0\0" + zlib.compress(bytes(m.rng.randint(5, 15) * 10**6), 9)
    return [m.post(png(8, 8, (b"zTXt", text), (b"IDAT", zlib.compress(b"")))[:-12], "image/png")]


# ---- forms


@_register("form cut off")
def _(m: RequestFuzzer) -> Steps:
    body, kind = m.form(m.photo)
    return [m.post(body[: m.rng.randint(1, len(body) - 8)], kind)]


@_register("form with a bad boundary")
def _(m: RequestFuzzer) -> Steps:
    body, _ = m.form(m.photo)
    name = m.rng.choice(
        ["", "; boundary=", "; boundary=other", f"; boundary={'x' * m.rng.randint(71, 5000)}", '; boundary="']
    )
    return [m.post(body, f"multipart/form-data{name}")]


@_register("form without the photo")
def _(m: RequestFuzzer) -> Steps:
    names = [
        'form-data; name="photo"; filename="a.jpg"',
        "form-data",
        "",
        "attachment; filename=image",
        'form-data; name=""',
    ]
    return [m.post(*m.form(m.photo, m.rng.choice(names)))]


@_register("form with too many parts")
def _(m: RequestFuzzer) -> Steps:
    part = b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n' + m.truncated(m.photo) + CRLF
    return [m.post(part * m.rng.randint(2, 50) + b"--x--\r\n", "multipart/form-data; boundary=x")]


@_register("form with odd part headers")
def _(m: RequestFuzzer) -> Steps:
    odd = [b"A" * 100_000 + b": b", b"no colon here", b": no name", b"A: b\r\n" * 500, b"A\0B: c", b"\r"]
    return [m.post(b"--x\r\n" + m.rng.choice(odd) + b"\r\n\r\nx\r\n--x--\r\n", "multipart/form-data; boundary=x")]


@_register("form of noise")
def _(m: RequestFuzzer) -> Steps:
    return [
        m.post(m.rng.choice([b"", b"--x", b"--x\r\n", b"\r\n"]) + m.random_bytes(1, 9999), "multipart/form-data; boundary=x")
    ]


@_register("form with an odd file name")
def _(m: RequestFuzzer) -> Steps:
    name = m.rng.choice(
        ["../../etc/passwd", "a" * 3000, "\\\\x\\y", "%00", "\x01\x02", "", '"', "<script>", "\u202egpj.exe", "."]
    )
    return [m.post(*m.form(m.truncated(m.photo), f'form-data; name="image"; filename="{name}"'))]


# ---- lengths and chunks


@_register("too large by its length")
def _(m: RequestFuzzer) -> Steps:
    size = m.max_bytes + m.rng.choice([1, 10**6, 10**12, 10**18])
    return [m.head(f"Content-Length: {size}", "Content-Type: image/jpeg"), m.random_bytes(0, 10_000), SendStep.HALF_CLOSE]


@_register("too large by its length, asking first")
def _(m: RequestFuzzer) -> Steps:
    return [m.head(f"Content-Length: {m.max_bytes * 2}", "Content-Type: image/jpeg", "Expect: 100-continue")]


@_register("too large, sent whole")
def _(m: RequestFuzzer) -> Steps:
    return [m.post(bytes(m.max_bytes + m.rng.randint(1, 200_000)))]


@_register("too large in chunks")
def _(m: RequestFuzzer) -> Steps:
    size = m.rng.choice([50_000, 500_000])
    return [m.chunks(*[chunk(bytes(size))] * (m.max_bytes // size + 2), b"0\r\n\r\n")]


@_register("bad chunks")
def _(m: RequestFuzzer) -> Steps:
    bad = [b"xyz\r\n", b"-5\r\nhello\r\n", b"5\r\nhelloworld\r\n", b"F" * 40 + CRLF, b"\r\n\r\n", b"5;" + b"a" * 99_999]
    good = [chunk(m.truncated(m.photo))] * m.rng.randint(0, 3)
    return [m.chunks(*good, m.rng.choice(bad) + m.random_bytes(0, 100)), SendStep.HALF_CLOSE]


@_register("chunks that end early")
def _(m: RequestFuzzer) -> Steps:
    return [m.chunks(b"ffffff\r\n", m.truncated(m.photo)), SendStep.HALF_CLOSE]


@_register("length above what comes")
def _(m: RequestFuzzer) -> Steps:
    return [
        m.head(f"Content-Length: {m.rng.randint(2, 9) * 10_000}", "Content-Type: image/jpeg") + b"x" * 9999,
        SendStep.HALF_CLOSE,
    ]


@_register("length below what comes")
def _(m: RequestFuzzer) -> Steps:
    size = m.rng.randint(1, len(m.photo) // 2)
    return [m.head(f"Content-Length: {size}", "Content-Type: image/jpeg") + m.photo]


@_register("bad length")
def _(m: RequestFuzzer) -> Steps:
    bad = ["-1", "abc", "1e3", "0x10", "9" * 400, "5, 6", "5\r\nContent-Length: 6", ""]
    return [m.head(f"Content-Length: {m.rng.choice(bad)}", "Content-Type: image/jpeg") + m.truncated(m.photo), SendStep.HALF_CLOSE]


@_register("bad transfer encoding")
def _(m: RequestFuzzer) -> Steps:
    bad = ["gzip", "chunked, chunked", "identity", "chunked\r\nTransfer-Encoding: chunked", "xchunked", ""]
    return [m.head(f"Transfer-Encoding: {m.rng.choice(bad)}", "Content-Type: image/jpeg") + b"0\r\n\r\n", SendStep.HALF_CLOSE]


# ---- heads


@_register("noise")
def _(m: RequestFuzzer) -> Steps:
    return [m.random_bytes(1, 40_000), SendStep.HALF_CLOSE]


@_register("another protocol")
def _(m: RequestFuzzer) -> Steps:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + m.random_bytes(200, 500)
    others = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(30),
        hello,
        b"\x05\x01\x00",
        b"SSH-2.0-x\r\n",
        b"GET /\r\n\r\n",
    ]
    others += [
        b"GET / HTTP/3.7\r\n\r\n",
        b"EHLO x\r\n",
        b"GET / HTTP/1.1.1\r\nHost: x\r\n\r\n",
        b"*1\r\n$4\r\nPING\r\n",
    ]
    return [m.rng.choice(others), SendStep.HALF_CLOSE]


@_register("odd headers")
def _(m: RequestFuzzer) -> Steps:
    odd = [
        "A B: c",
        "no colon",
        ": empty",
        "A\0: b",
        "A: b\0c",
        "Ä: b",
        "A: \x7f",
        "Host: x",
        "Content-Type",
        "A:\tb\x0b",
    ]
    return [m.head(m.rng.choice(odd), "Content-Type: image/jpeg", "Content-Length: 1") + b"x"]


@_register("no host")
def _(m: RequestFuzzer) -> Steps:
    return [m.head("Content-Length: 1", "Content-Type: image/jpeg", host=False) + b"x"]


@_register("oversized headers")
def _(m: RequestFuzzer) -> Steps:
    size = m.rng.choice([17_000, 70_000, 1_000_000])
    lines = m.rng.choice([["A: " + "b" * size], ["B" * size + ": c"], ["C: d"] * (size // 6)])
    return [m.head(*lines, "Content-Length: 0")]


@_register("huge query")
def _(m: RequestFuzzer) -> Steps:
    return [m.head(method="GET", path="/v1/health?" + "a=b&" * m.rng.choice([5000, 100_000]))]


@_register("bad query values")
def _(m: RequestFuzzer) -> Steps:
    bad = [
        "min_score=2",
        "min_score=nan",
        "min_score=abc",
        "min_score=-1",
        "min_score=1e999",
        "min_score=%00",
        "min_score=[]",
    ]
    bad += [
        "min_face=0",
        "min_face=-5",
        "min_face=inf",
        "min_face=0x20",
        "min_score=0.5&min_face=",
        "min_face=" + "9" * 5000,
    ]
    return [m.post(m.photo, path="/v1/detect?" + m.rng.choice(bad))]


@_register("path traversal")
def _(m: RequestFuzzer) -> Steps:
    up = m.rng.choice(["../", "..%2f", "%2e%2e/", "..\\", "%2e%2e%5c", "....//", "..%c0%af", "..;/"]) * m.rng.randint(
        1, 9
    )
    root = m.rng.choice(["/static/", "/", "/static-offline-docs/", "/v1/"])
    return [
        m.head(
            method="GET", path=root + up + m.rng.choice(["etc/passwd", "api.py", "pyproject.toml", "%00", "x" * 300])
        )
    ]


@_register("bad method or address")
def _(m: RequestFuzzer) -> Steps:
    method = m.rng.choice(["PUT", "DELETE", "TRACE", "CONNECT", "post", "X" * 300, "G\0T", "PROPFIND"])
    path = m.rng.choice(["/v1/detect", "/v1/health", "*", "http://[/", "//", "/%", "/%zz", "/" + "a/" * 500, "?", "#"])
    return [m.head(method=method, path=path)]


@_register("another site's page")
def _(m: RequestFuzzer) -> Steps:
    lines = ["Origin: http://example.com", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"]
    return [m.post(m.photo, "image/jpeg", m.rng.choice(lines))]


@_register("unasked upgrade")
def _(m: RequestFuzzer) -> Steps:
    lines = (
        "Connection: Upgrade",
        f"Upgrade: {m.rng.choice(['websocket', 'h2c', 'TLS/1.0'])}",
        "Sec-WebSocket-Version: 13",
    )
    return [m.head(*lines, method="GET")]


# ---- clients that dawdle or leave


@_register("silent")
def _(m: RequestFuzzer) -> Steps:
    return [m.slow_seconds]


@_register("slow head")
def _(m: RequestFuzzer) -> Steps:
    steps: Steps = [m.head("Content-Type: image/jpeg")[:-4]]
    for i in range(12):
        steps += [m.slow_seconds / 10, f"\r\nX-{i}: y".encode()]
    return steps


@_register("slow body")
def _(m: RequestFuzzer) -> Steps:
    steps: Steps = [m.head(f"Content-Length: {len(m.photo)}", "Content-Type: image/jpeg")]
    for i in range(12):
        steps += [m.photo[i : i + 1], m.slow_seconds / 10]
    return steps


@_register("slow chunks")
def _(m: RequestFuzzer) -> Steps:
    steps: Steps = [m.chunks()]
    for i in range(12):
        steps += [chunk(m.photo[i : i + 1]), m.slow_seconds / 10]
    return steps


@_register("half closed")
def _(m: RequestFuzzer) -> Steps:
    whole = m.post(m.truncated(m.photo))
    return [whole[: m.rng.choice([0, 1, 20, 100, len(whole) // 2, len(whole)])], SendStep.HALF_CLOSE]


@_register("broken off")
def _(m: RequestFuzzer) -> Steps:
    whole = m.post(m.photo)
    return [whole[: m.rng.choice([0, 1, 100, len(whole) // 2, len(whole)])], m.rng.choice([0.0, 0.05]), SendStep.RESET]
