"""Addresses of cameras: passwords with special signs, what is shown of them, and how RTSP is opened."""

from __future__ import annotations

import socket
from contextlib import closing
from typing import Any

import av
import pytest

from common.errors import MediaError
from pipeline.video.camera import LiveStream, open_source
from pipeline.video.network.address import ENCODING_HINT, parse_address, redact_address
from pipeline.video.reader import VideoFile
from tests.helpers.video.fake_cameras import camera_server, rtsp_camera
from tests.helpers.video.run_detect import run_detect
from tests.helpers.video.snapshot_server import basic_login, digest_login


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("rtsp://host/live", "rtsp://host/live"),
        ("rtsp://user:secret@host:554/live?token=hidden#part", "rtsp://host:554/live"),
        ("rtsp://user@host/a@b", "rtsp://b"),  # shows too little rather than a password
        ("rtsp://user:p@ss/secret@host/live", "rtsp://host/live"),
        ("rtsp://user:sec#ret@host/live", "rtsp://host/live"),
        ("rtsp://user:sec?ret@host/live", "rtsp://host/live"),
        ("rtsp://user:12#34@host/live", "rtsp://host/live"),
        ("rtsp://user:12/34@host/live", "rtsp://host/live"),
        ("rtsp://user:12?34@host/live", "rtsp://host/live"),
        ("http://host/@cam/live", "http://host/@cam/live"),
        ("http://[::1]:8080/live", "http://[::1]:8080/live"),
        ("http://user:secret@[::1]/live", "http://[::1]/live"),
        ("http://host:port/live", "http://host:port/live"),
        ("http://[::1", "http://[::1"),
    ],
)
def test_addresses_are_shown_without_passwords(address: str, shown: str) -> None:
    assert redact_address(address) == shown


@pytest.mark.parametrize(
    ("password", "encoded"),
    [
        ("secret", "secret"),
        ("p@ss", "p%40ss"),
        ("p@@s@", "p%40%40s%40"),
        ("p#ss", "p%23ss"),
        ("12#34", "12%2334"),
        ("p:ss", "p:ss"),
        ("p/ss", "p%2Fss"),
        ("p?ss", "p%3Fss"),
        ("12?34", "12%3F34"),
        ("p@ss#1:2", "p%40ss%231%3A2"),
        ("p@s#s:w/o?rd", "p%40s%23s%3Aw%2Fo%3Frd"),
        ("100%", "100%25"),
        ("p%40ss", "p%40ss"),
        ("p ss", "p%20ss"),
        ("비밀", "%EB%B9%84%EB%B0%80"),
        ("", ""),
    ],
)
@pytest.mark.parametrize("host", ["192.168.0.5", "192.168.0.5:554", "cam.example", "[::1]:554"])
def test_a_password_with_special_signs(password: str, encoded: str, host: str) -> None:
    for rest in ("/live?a=b", "", "/"):
        address = parse_address(f"rtsp://admin:{password}@{host}{rest}")
        assert (address.user, address.host, address.rest) == ("admin", host, rest)
        assert address.url == f"rtsp://admin:{encoded}@{host}{rest}"
        assert address.url_without_password == f"rtsp://{host}{rest or '/'}"
        if password not in ("p%40ss",):
            assert address.password == password


@pytest.mark.parametrize(
    ("address", "user", "host"),
    [
        ("http://host/a", None, "host"),
        ("http://host:8080/@cam/live", None, "host:8080"),
        ("http://host:8080/snap?mail=a@b.com", None, "host:8080"),
        ("http://192.168.0.5:8080/a@b/c", None, "192.168.0.5:8080"),
        ("http://user:pass@cam/snap?mail=a@b.com", "user", "cam"),
        ("http://user:pass@192.168.0.9/cam@2x/live", "user", "192.168.0.9"),
        ("rtsp://me@x.org:pw@host/live", "me@x.org", "host"),
        ("rtsp://user@host/live", "user", "host"),
        ("http://user:pw@host:port/live", "user", "host:port"),
    ],
)
def test_addresses_that_are_right_stay_as_they_are(address: str, user: str | None, host: str) -> None:
    parsed = parse_address(address)
    assert (parsed.user, parsed.host) == (user, host)
    assert parsed.url in (address, address.replace("me@x", "me%40x"))


@pytest.mark.parametrize(
    "address",
    [
        "rtsp://admin:1234/5@192.168.0.5/live",  # or host admin, port 1234
        "rtsp://admin:p@ss/word@192.168.0.5/live",  # or host ss
        "rtsp://admin:pass@192.168.0.9/x@10.0.0.1/live",
    ],
)
def test_an_unclear_password_is_explained(address: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_detect(address) == 1
    err = capsys.readouterr().err
    assert err.startswith("error: rtsp://") and "it is not clear where its password ends; " in err
    assert ENCODING_HINT in err and "rtsp://USER:PASS%40WORD@HOST/PATH" in err and err.count("\n") == 1
    for part in ("admin", "1234", "ss/w", "word@", "pass@"):
        assert part not in err


class OpenedError(Exception):
    """Ends the opening of an address."""


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, dict[str, str]]]:
    """Return the addresses and options that FFmpeg gets."""
    calls: list[tuple[str, dict[str, str]]] = []

    def av_open(address: str, options: dict[str, str], **_: Any) -> None:
        calls.append((address, options))
        raise OpenedError

    monkeypatch.setattr(av, "open", av_open)
    return calls


def test_what_ffmpeg_gets(options: list[tuple[str, dict[str, str]]]) -> None:
    for address, camera in (
        ("rtsp://admin:p@s#s@host/live", {}),
        ("rtsps://host/live", {"rtsp_transport": "udp"}),
        ("http://admin:p@s#s@host/live", {"rtsp_transport": "udp"}),
    ):
        with pytest.raises(OpenedError):
            open_source(address, **camera)  # type: ignore[arg-type]
    assert options == [
        ("rtsp://admin:p%40s%23s@host/live", {"rtsp_transport": "tcp"}),
        ("rtsps://host/live", {"rtsp_transport": "udp"}),
        ("http://admin:p%40s%23s@host/live", {}),
    ]


def test_the_flag_reaches_ffmpeg(
    options: list[tuple[str, dict[str, str]]], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from tests.helpers.video.run_detect import use_fake_predictor

    use_fake_predictor(tmp_path, monkeypatch)
    for flags, transport in (((), "tcp"), (("--rtsp-transport", "udp"), "udp")):
        with pytest.raises(OpenedError):
            run_detect("rtsp://host/live", *flags)
        assert options[-1] == ("rtsp://host/live", {"rtsp_transport": transport})


@pytest.mark.parametrize("password", ["p@s#s:w/o?rd%", "비밀"])
@pytest.mark.parametrize("login", [basic_login, digest_login])
def test_ffmpeg_logs_in_with_such_a_password(login: Any, password: str) -> None:
    with camera_server(rtsp_camera(10**6, login=login("admin", password))) as port:
        stream = open_source(f"rtsp://admin:{password}@127.0.0.1:{port}/live")
        with closing(stream.frames(seconds=20)) as frames:
            assert next(frames).pixels.shape == (64, 96, 3)
    assert stream.name == f"rtsp://127.0.0.1:{port}/live"


def test_ffmpeg_is_refused_with_a_wrong_password() -> None:
    refused = pytest.raises(MediaError, match="check the user and password in its address; write @ :")
    with camera_server(rtsp_camera(10**6, login=digest_login("admin", "right"))) as port, refused as caught:
        open_source(f"rtsp://admin:wrong@127.0.0.1:{port}/live")
    assert "wrong" not in str(caught.value)


def refuse_transport(connection: socket.socket) -> None:
    """Speak RTSP as a camera that refuses the transport (461)."""
    sdp = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=c\r\nt=0 0\r\nm=video 0 RTP/AVP 96\r\na=rtpmap:96 H264/90000\r\n"
    request = connection.makefile("rb")
    while lines := list(iter(lambda: request.readline().decode().strip(), "")):
        count = next(line for line in lines if line.lower().startswith("cseq"))
        method, body, status = lines[0].split()[0], "", "200 OK"
        if method == "DESCRIBE":
            body = sdp + "a=control:track\r\n"
        elif method == "SETUP":
            status = "461 Unsupported Transport"
        head = "Content-Type: application/sdp\r\n" if body else ""
        connection.sendall(f"RTSP/1.0 {status}\r\n{count}\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}".encode())


@pytest.mark.parametrize(("transport", "other"), [("tcp", "udp"), ("udp", "tcp")])
def test_a_refused_transport_names_the_other_one(transport: Any, other: str) -> None:
    with camera_server(refuse_transport) as port, pytest.raises(MediaError) as caught:
        LiveStream(address=f"rtsp://me:secret@127.0.0.1:{port}/live", timeout=5, rtsp_transport=transport)
    what = f"the camera refuses {transport.upper()}, use --rtsp-transport {other}"
    assert str(caught.value) == f"rtsp://127.0.0.1:{port}/live: cannot be read (Protocol not supported); {what}"


def test_no_packets_over_udp() -> None:
    def silent(connection: socket.socket) -> None:
        connection.settimeout(20)
        while connection.recv(65536):
            pass

    with camera_server(silent) as port, pytest.raises(MediaError, match=r"no data in time.*use --rtsp-transport tcp"):
        VideoFile(f"rtsp://127.0.0.1:{port}/live", "camera", 0.3, "udp")


def test_the_flag_is_for_rtsp(capsys: pytest.CaptureFixture[str]) -> None:
    assert run_detect("http://host/live", "--rtsp-transport", "udp") == 1
    line = "error: --rtsp-transport is for rtsp:// addresses; remove --rtsp-transport\n"
    assert capsys.readouterr().err == line
    assert run_detect("photo.jpg", "--rtsp-transport", "udp") == 1
    assert "--rtsp-transport is for videos" in capsys.readouterr().err
