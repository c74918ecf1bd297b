"""Malformed requests whose body holds no usable photo."""

from __future__ import annotations

import struct
import zlib

from tests.load.request_fuzzer import MakeSteps, RequestFuzzer, Steps, png, register

CRLF = b"\r\n"
FORM_TYPE = "multipart/form-data; boundary=x"
KINDS: dict[str, MakeSteps] = {}


# Bodies that hold no photo


@register(KINDS, "photo cut off")
def _(fuzzer: RequestFuzzer) -> Steps:
    return [fuzzer.post(fuzzer.truncated(fuzzer.photo))]


@register(KINDS, "photo cut off in a form")
def _(fuzzer: RequestFuzzer) -> Steps:
    body, kind = fuzzer.form(fuzzer.truncated(fuzzer.photo))
    return [fuzzer.post(body, kind)]


@register(KINDS, "noise as a photo")
def _(fuzzer: RequestFuzzer) -> Steps:
    start = fuzzer.choose(
        [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"BM", b"II*\0", b"RIFF\0\0\0\0WEBP"]
    )
    return [
        fuzzer.post(
            start + fuzzer.random_bytes(1, 5000),
            fuzzer.choose(["image/jpeg", "image/png", "application/octet-stream"]),
        )
    ]


@register(KINDS, "another kind of file")
def _(fuzzer: RequestFuzzer) -> Steps:
    texts = [
        b"%PDF-1.7\n",
        b"PK\3\4",
        b"<!doctype html>",
        b"<svg xmlns='x'/>",
        b"%!PS-Adobe-3.0 EPSF-3.0\n",
        b"\x7fELF",
    ]
    return [fuzzer.post(fuzzer.choose(texts) + b" " * fuzzer.rng.randint(0, 999))]


@register(KINDS, "empty body")
def _(fuzzer: RequestFuzzer) -> Steps:
    return [fuzzer.post(b"") if fuzzer.rng.random() < 0.5 else fuzzer.post(*fuzzer.form(b""))]


@register(KINDS, "wrong type")
def _(fuzzer: RequestFuzzer) -> Steps:
    kinds = ["text/plain", "application/json", "application/x-www-form-urlencoded", "video/mp4", "*/*", ";", "", None]
    return [fuzzer.post(fuzzer.photo, fuzzer.choose(kinds))]


@register(KINDS, "compressed body")
def _(fuzzer: RequestFuzzer) -> Steps:
    return [
        fuzzer.post(
            zlib.compress(fuzzer.photo),
            "image/jpeg",
            f"Content-Encoding: {fuzzer.choose(['gzip', 'deflate', 'br'])}",
        )
    ]


# Bombs: small files that claim to be huge


@register(KINDS, "bomb: a head that claims many pixels")
def _(fuzzer: RequestFuzzer) -> Steps:
    side = fuzzer.choose([20_000, 65_535, 2**31 - 1])
    rows = zlib.compress(bytes(100_000), 9)
    bombs = [
        png(side, side, (b"IDAT", rows)),
        b"GIF89a" + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0) + b"," + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0),
        b"BM" + struct.pack("<IHHIIiiHHIIiiII", 10**6, 0, 0, 54, 40, side, side, 1, 24, 0, 0, 0, 0, 0, 0),
        f"P6 {side} {side} 255\n".encode() + bytes(1000),
        b"qoif" + struct.pack(">IIBB", side, side, 3, 0) + bytes(1000),
    ]
    return [fuzzer.post(fuzzer.choose(bombs), "application/octet-stream")]


@register(KINDS, "bomb: compressed text in a PNG")
def _(fuzzer: RequestFuzzer) -> Steps:
    text = b"Comment\0\0" + zlib.compress(bytes(fuzzer.rng.randint(5, 15) * 10**6), 9)
    return [fuzzer.post(png(8, 8, (b"zTXt", text), (b"IDAT", zlib.compress(b"")))[:-12], "image/png")]


# Multipart forms


@register(KINDS, "form cut off")
def _(fuzzer: RequestFuzzer) -> Steps:
    body, kind = fuzzer.form(fuzzer.photo)
    return [fuzzer.post(body[: fuzzer.rng.randint(1, len(body) - 8)], kind)]


@register(KINDS, "form with a bad boundary")
def _(fuzzer: RequestFuzzer) -> Steps:
    body, _ = fuzzer.form(fuzzer.photo)
    name = fuzzer.choose(
        ["", "; boundary=", "; boundary=other", f"; boundary={'x' * fuzzer.rng.randint(71, 5000)}", '; boundary="']
    )
    return [fuzzer.post(body, f"multipart/form-data{name}")]


@register(KINDS, "form without the photo")
def _(fuzzer: RequestFuzzer) -> Steps:
    names = [
        'form-data; name="photo"',
        "form-data",
        "",
        "attachment; name=file",
        'form-data; name=""',
    ]
    return [fuzzer.post(*fuzzer.form(fuzzer.photo, fuzzer.choose(names)))]


@register(KINDS, "form with too many parts")
def _(fuzzer: RequestFuzzer) -> Steps:
    part = (
        b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        + fuzzer.truncated(fuzzer.photo)
        + CRLF
    )
    return [fuzzer.post(part * fuzzer.rng.randint(2, 50) + b"--x--\r\n", FORM_TYPE)]


@register(KINDS, "form with odd part headers")
def _(fuzzer: RequestFuzzer) -> Steps:
    odd = [b"A" * 100_000 + b": b", b"no colon here", b": no name", b"A: b\r\n" * 500, b"A\0B: c", b"\r"]
    return [fuzzer.post(b"--x\r\n" + fuzzer.choose(odd) + b"\r\n\r\nx\r\n--x--\r\n", FORM_TYPE)]


@register(KINDS, "form of noise")
def _(fuzzer: RequestFuzzer) -> Steps:
    return [
        fuzzer.post(
            fuzzer.choose([b"", b"--x", b"--x\r\n", b"\r\n"]) + fuzzer.random_bytes(1, 9999),
            "multipart/form-data; boundary=x",
        )
    ]


@register(KINDS, "form with an odd file name")
def _(fuzzer: RequestFuzzer) -> Steps:
    name = fuzzer.choose(
        ["../../etc/passwd", "a" * 3000, "\\\\x\\y", "%00", "\x01\x02", "", '"', "<script>", "\u202egpj.exe", "."]
    )
    return [fuzzer.post(*fuzzer.form(fuzzer.truncated(fuzzer.photo), f'form-data; name="image"; filename="{name}"'))]
