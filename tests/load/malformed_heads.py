"""Malformed requests with bad lengths, chunks or heads, and clients that are slow or disconnect."""

from __future__ import annotations

from tests.load.request_fuzzer import MakeSteps, RequestFuzzer, SendStep, Steps, chunk, register

CRLF = b"\r\n"
KINDS: dict[str, MakeSteps] = {}


# Lengths and chunks


@register(KINDS, "too large by its length")
def _(fuzzer: RequestFuzzer) -> Steps:
    size = fuzzer.max_bytes + fuzzer.choose([1, 10**6, 10**12, 10**18])
    return [
        fuzzer.head(f"Content-Length: {size}", "Content-Type: image/jpeg"),
        fuzzer.random_bytes(0, 10_000),
        SendStep.HALF_CLOSE,
    ]


@register(KINDS, "too large by its length, asking first")
def _(fuzzer: RequestFuzzer) -> Steps:
    return [fuzzer.head(f"Content-Length: {fuzzer.max_bytes * 2}", "Content-Type: image/jpeg", "Expect: 100-continue")]


@register(KINDS, "too large, sent whole")
def _(fuzzer: RequestFuzzer) -> Steps:
    return [fuzzer.post(bytes(fuzzer.max_bytes + fuzzer.rng.randint(1, 200_000)))]


@register(KINDS, "too large in chunks")
def _(fuzzer: RequestFuzzer) -> Steps:
    size = fuzzer.choose([50_000, 500_000])
    return [fuzzer.chunks(*[chunk(bytes(size))] * (fuzzer.max_bytes // size + 2), b"0\r\n\r\n")]


@register(KINDS, "bad chunks")
def _(fuzzer: RequestFuzzer) -> Steps:
    bad = [b"xyz\r\n", b"-5\r\nhello\r\n", b"5\r\nhelloworld\r\n", b"F" * 40 + CRLF, b"\r\n\r\n", b"5;" + b"a" * 99_999]
    good = [chunk(fuzzer.truncated(fuzzer.photo))] * fuzzer.rng.randint(0, 3)
    return [fuzzer.chunks(*good, fuzzer.choose(bad) + fuzzer.random_bytes(0, 100)), SendStep.HALF_CLOSE]


@register(KINDS, "chunks that end early")
def _(fuzzer: RequestFuzzer) -> Steps:
    return [fuzzer.chunks(b"ffffff\r\n", fuzzer.truncated(fuzzer.photo)), SendStep.HALF_CLOSE]


@register(KINDS, "length above what comes")
def _(fuzzer: RequestFuzzer) -> Steps:
    return [
        fuzzer.head(f"Content-Length: {fuzzer.rng.randint(2, 9) * 10_000}", "Content-Type: image/jpeg") + b"x" * 9999,
        SendStep.HALF_CLOSE,
    ]


@register(KINDS, "length below what comes")
def _(fuzzer: RequestFuzzer) -> Steps:
    size = fuzzer.rng.randint(1, len(fuzzer.photo) // 2)
    return [fuzzer.head(f"Content-Length: {size}", "Content-Type: image/jpeg") + fuzzer.photo]


@register(KINDS, "bad length")
def _(fuzzer: RequestFuzzer) -> Steps:
    bad = ["-1", "abc", "1e3", "0x10", "9" * 400, "5, 6", "5\r\nContent-Length: 6", ""]
    return [
        fuzzer.head(f"Content-Length: {fuzzer.choose(bad)}", "Content-Type: image/jpeg")
        + fuzzer.truncated(fuzzer.photo),
        SendStep.HALF_CLOSE,
    ]


@register(KINDS, "bad transfer encoding")
def _(fuzzer: RequestFuzzer) -> Steps:
    bad = ["gzip", "chunked, chunked", "identity", "chunked\r\nTransfer-Encoding: chunked", "xchunked", ""]
    return [
        fuzzer.head(f"Transfer-Encoding: {fuzzer.choose(bad)}", "Content-Type: image/jpeg") + b"0\r\n\r\n",
        SendStep.HALF_CLOSE,
    ]


# Heads


@register(KINDS, "noise")
def _(fuzzer: RequestFuzzer) -> Steps:
    return [fuzzer.random_bytes(1, 40_000), SendStep.HALF_CLOSE]


@register(KINDS, "another protocol")
def _(fuzzer: RequestFuzzer) -> Steps:
    hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + fuzzer.random_bytes(200, 500)
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
    return [fuzzer.choose(others), SendStep.HALF_CLOSE]


@register(KINDS, "odd headers")
def _(fuzzer: RequestFuzzer) -> Steps:
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
    return [fuzzer.head(fuzzer.choose(odd), "Content-Type: image/jpeg", "Content-Length: 1") + b"x"]


@register(KINDS, "no host")
def _(fuzzer: RequestFuzzer) -> Steps:
    return [fuzzer.head("Content-Length: 1", "Content-Type: image/jpeg", host=False) + b"x"]


@register(KINDS, "oversized headers")
def _(fuzzer: RequestFuzzer) -> Steps:
    size = fuzzer.choose([17_000, 70_000, 1_000_000])
    lines = fuzzer.choose([["A: " + "b" * size], ["B" * size + ": c"], ["C: d"] * (size // 6)])
    return [fuzzer.head(*lines, "Content-Length: 0")]


@register(KINDS, "huge query")
def _(fuzzer: RequestFuzzer) -> Steps:
    return [fuzzer.head(method="GET", path="/v1/health?" + "a=b&" * fuzzer.choose([5000, 100_000]))]


@register(KINDS, "bad query values")
def _(fuzzer: RequestFuzzer) -> Steps:
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
    return [fuzzer.post(fuzzer.photo, path="/v1/detect?" + fuzzer.choose(bad))]


@register(KINDS, "path traversal")
def _(fuzzer: RequestFuzzer) -> Steps:
    up = fuzzer.choose(
        ["../", "..%2f", "%2e%2e/", "..\\", "%2e%2e%5c", "....//", "..%c0%af", "..;/"]
    ) * fuzzer.rng.randint(1, 9)
    root = fuzzer.choose(["/static/", "/", "/static-offline-docs/", "/v1/"])
    return [
        fuzzer.head(
            method="GET",
            path=root + up + fuzzer.choose(["etc/passwd", "app.py", "pyproject.toml", "%00", "x" * 300]),
        )
    ]


@register(KINDS, "bad method or address")
def _(fuzzer: RequestFuzzer) -> Steps:
    method = fuzzer.choose(["PUT", "DELETE", "TRACE", "CONNECT", "post", "X" * 300, "G\0T", "PROPFIND"])
    path = fuzzer.choose(["/v1/detect", "/v1/health", "*", "http://[/", "//", "/%", "/%zz", "/" + "a/" * 500, "?", "#"])
    return [fuzzer.head(method=method, path=path)]


@register(KINDS, "another site's page")
def _(fuzzer: RequestFuzzer) -> Steps:
    lines = ["Origin: http://example.com", "Origin: null", "Sec-Fetch-Site: cross-site", "Sec-Fetch-Site: same-site"]
    return [fuzzer.post(fuzzer.photo, "image/jpeg", fuzzer.choose(lines))]


@register(KINDS, "unasked upgrade")
def _(fuzzer: RequestFuzzer) -> Steps:
    lines = (
        "Connection: Upgrade",
        f"Upgrade: {fuzzer.choose(['websocket', 'h2c', 'TLS/1.0'])}",
        "Sec-WebSocket-Version: 13",
    )
    return [fuzzer.head(*lines, method="GET")]


# Clients that are slow or disconnect


@register(KINDS, "silent")
def _(fuzzer: RequestFuzzer) -> Steps:
    return [fuzzer.slow_seconds]


@register(KINDS, "slow head")
def _(fuzzer: RequestFuzzer) -> Steps:
    steps: Steps = [fuzzer.head("Content-Type: image/jpeg")[:-4]]
    for i in range(12):
        steps += [fuzzer.slow_seconds / 10, f"\r\nX-{i}: y".encode()]
    return steps


@register(KINDS, "slow body")
def _(fuzzer: RequestFuzzer) -> Steps:
    steps: Steps = [fuzzer.head(f"Content-Length: {len(fuzzer.photo)}", "Content-Type: image/jpeg")]
    for i in range(12):
        steps += [fuzzer.photo[i : i + 1], fuzzer.slow_seconds / 10]
    return steps


@register(KINDS, "slow chunks")
def _(fuzzer: RequestFuzzer) -> Steps:
    steps: Steps = [fuzzer.chunks()]
    for i in range(12):
        steps += [chunk(fuzzer.photo[i : i + 1]), fuzzer.slow_seconds / 10]
    return steps


@register(KINDS, "half closed")
def _(fuzzer: RequestFuzzer) -> Steps:
    whole = fuzzer.post(fuzzer.truncated(fuzzer.photo))
    return [whole[: fuzzer.choose([0, 1, 20, 100, len(whole) // 2, len(whole)])], SendStep.HALF_CLOSE]


@register(KINDS, "broken off")
def _(fuzzer: RequestFuzzer) -> Steps:
    whole = fuzzer.post(fuzzer.photo)
    return [
        whole[: fuzzer.choose([0, 1, 100, len(whole) // 2, len(whole)])],
        fuzzer.choose([0.0, 0.05]),
        SendStep.RESET,
    ]
