"""Cameras whose HTTP address shows one picture: fetched again and again; errors between are reported and retried."""

from __future__ import annotations

import io
import itertools
import json
import re
import shutil
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from common.errors import MediaError
from pipeline.video import camera
from pipeline.video.camera import LiveStream, open_source
from pipeline.video.network import snapshot
from pipeline.video.network.address import parse_address
from pipeline.video.network.snapshot import SnapshotCamera
from pipeline.video.reader import Frame
from tests.helpers.fake_predictor import FakePredictor
from tests.helpers.video.fake_cameras import answer_503, camera_server, mjpeg_camera, send_head
from tests.helpers.video.run_detect import run_detect, use_fake_predictor
from tests.helpers.video.snapshot_server import (
    Answer,
    basic_login,
    digest_login,
    jpeg,
    snapshot_server,
    walking,
)

PASSWORD = "p@s#s:w/o?rd%"


@pytest.fixture(autouse=True)
def fast(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(LiveStream.__init__, "__defaults__", (None, "", None, 10.0, 0.01, "tcp"))


def opened(address: str, max_fps: float = 50) -> LiveStream:
    source = open_source(address, max_fps=max_fps)
    assert isinstance(source, LiveStream)
    return source


def walk_index(frame: Frame) -> int:
    (box,) = FakePredictor().detect(frame.pixels).boxes
    return round(float(box[0]) / 2)


def first_shape(answers: Iterator[Answer]) -> tuple[int, ...]:
    """Return the shape of the first picture of a camera with these answers."""
    with (
        snapshot_server(answers) as server,
        closing(opened(f"http://127.0.0.1:{server.port}/x").frames(seconds=20)) as frames,
    ):
        return next(frames).pixels.shape


@pytest.mark.parametrize("path", ["/snapshot.jpg", "/", "/cgi-bin/snap?chn=1&q=a b", "/video.mp4", "/stream.mjpg"])
def test_a_picture_is_fetched_again_and_again(path: str, capsys: pytest.CaptureFixture[str]) -> None:
    with (
        snapshot_server() as server,
        closing((stream := opened(f"http://127.0.0.1:{server.port}{path}")).frames()) as frames,
    ):
        found = list(itertools.islice(frames, 10))
    assert stream.fetched and stream.rate == 50
    assert [frame.index for frame in found] == list(range(10)) and found[0].pixels.shape == (64, 96, 3)
    assert [walk_index(frame) for frame in found] == sorted({walk_index(frame) for frame in found})
    assert all(frame.clock for frame in found)
    assert server.paths[-1] == path.replace(" ", "%20")
    name = f"http://127.0.0.1:{server.port}{path.partition('?')[0]}"
    line = f"{name}: shows a picture; fetching it 50 times a second (--max-fps) until Ctrl-C\n"
    assert capsys.readouterr() == ("", line)


@pytest.mark.parametrize("kind", ["image/jpeg", "image/jpeg; charset=x", "application/octet-stream", "text/plain", ""])
def test_the_answer_decides(kind: str) -> None:
    answers = (replace(answer, kind=kind) for answer in walking())
    assert first_shape(answers) == (64, 96, 3)


def test_another_picture_format_and_a_turned_picture() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    turned, file = io.BytesIO(), io.BytesIO()
    Image.open(io.BytesIO(jpeg())).save(turned, "JPEG", exif=exif)
    Image.open(io.BytesIO(jpeg())).save(file, "PNG")
    assert first_shape(itertools.cycle([Answer(file.getvalue(), "image/png")])) == (64, 96, 3)
    assert first_shape(itertools.cycle([Answer(turned.getvalue())])) == (96, 64, 3)


def test_streams_stay_videos_whatever_their_name() -> None:
    with camera_server(mjpeg_camera(), answer_503) as port:  # one connection is enough
        stream = opened(f"http://127.0.0.1:{port}/snapshot.jpg")
        assert not stream.fetched
        with closing(stream.frames()) as frames:
            assert len(list(itertools.islice(frames, 3))) == 3


@pytest.mark.parametrize("max_fps", [None, 10.0])
def test_how_often(max_fps: float | None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(camera, "DEFAULT_FETCHES_PER_SECOND", 5.0)
    assert snapshot.DEFAULT_FETCHES_PER_SECOND == 2  # in the documentation, too
    rate = max_fps or 5
    with snapshot_server() as server:
        source = open_source(f"http://127.0.0.1:{server.port}/a", max_fps=max_fps)
        server.times.clear()
        found = list(source.frames(seconds=1.25))
    assert 1.25 * rate - 2 <= len(found) <= 1.25 * rate + 1
    assert np.diff(server.times).min() > 0.5 / rate


@pytest.mark.parametrize("max_fps", ["0.0000001", "1e-300"])
def test_very_seldom(max_fps: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    use_fake_predictor(tmp_path, monkeypatch)
    with snapshot_server() as server:
        address = f"http://127.0.0.1:{server.port}/a"
        assert run_detect(address, "--max-fps", max_fps, "--seconds", "0.5", "--out", "out") == 0
    (lines,) = Path("out").glob("*.jsonl")
    assert len(lines.read_text().splitlines()) == 1


def test_errors_between_are_reported_and_retried(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(camera, "READ_TIMEOUT", 0.5)
    good = [Answer(jpeg(1))] * 3
    bad = [
        Answer(status=404),
        Answer(jpeg()[:200]),
        Answer(b""),
        Answer(b"<html>busy</html>", "text/html"),
        Answer(jpeg(), wait=3),
        Answer(jpeg()[:-40], missing=40),
        Answer(jpeg(), kind="multipart/x-mixed-replace; boundary=a"),
        Answer(status=500),
        Answer(status=401),
    ]
    answers = itertools.chain(good, *([each, Answer(jpeg(2))] for each in bad), walking())
    with snapshot_server(answers) as server:
        name = f"http://127.0.0.1:{server.port}/a.jpg"
        lines: list[str] = []
        with closing(opened(name.replace("//", "//me:secret@") + "?token=secret", 200).frames(seconds=30)) as frames:
            while sum(line.endswith("is back") for line in lines) < len(bad):
                next(frames)
                lines += capsys.readouterr().err.splitlines()
    lost = [re.fullmatch(rf"{name}: lost \((.*)\); trying again in 0\.01 s", line) for line in lines[1:]]
    reasons = [match[1] for match in lost if match]
    assert len(lines) == 1 + 2 * len(bad) and "secret" not in "".join(lines)
    expected = (
        *("answered with HTTP status 404", "is truncated or broken", "sent an empty answer", "is not a picture"),
        *("cannot be read (no data in time)", "broke off the picture", "sends multipart/x-mixed-replace instead"),
        *("answered with HTTP status 500", "answered with HTTP status 401"),
    )
    assert all(reason.startswith(start) for reason, start in zip(reasons, expected, strict=True)), reasons


def test_a_camera_that_goes_away(capsys: pytest.CaptureFixture[str]) -> None:
    with snapshot_server() as server:
        frames = opened(f"http://127.0.0.1:{server.port}/a").frames(seconds=30)
        next(frames)
    err = ""
    with closing(frames):
        while "lost" not in err:
            time.sleep(0.02)
            err += capsys.readouterr().err
    assert "lost (cannot be read (Connection refused)); trying again in" in err


def test_a_broken_first_picture_is_no_end(capsys: pytest.CaptureFixture[str]) -> None:
    answers = itertools.chain([Answer(b"broken")] * 3, walking())
    assert first_shape(answers) == (64, 96, 3)
    assert "lost (is not a picture that can be read); trying again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("answer", "line"),
    [
        (Answer(b"<html>no video here</html>" * 100, "text/html"), "holds no video; check its address"),
        (Answer(b"<svg xmlns='http://www.w3.org/2000/svg'/>", "image/svg+xml"), "; check its address"),
        (Answer(status=404), "cannot be read (Server returned 404 Not Found); check its address"),
        (
            Answer(status=401),
            "check the user and password in its address; write @ : / ? # % in a user or password as %40",
        ),
    ],
)
def test_what_is_no_picture_is_refused(answer: Answer, line: str) -> None:
    with snapshot_server(itertools.cycle([answer])) as server, pytest.raises(MediaError) as caught:
        opened(f"http://me:secret@127.0.0.1:{server.port}/a.jpg")
    assert str(caught.value).startswith(f"http://127.0.0.1:{server.port}/a.jpg: ") and line in str(caught.value)
    assert "secret" not in str(caught.value)


def test_pictures_one_after_the_other_are_a_video() -> None:
    def endless(connection: socket.socket) -> None:
        send_head(connection, "image/jpeg")
        for index in itertools.count():
            connection.sendall(jpeg(index))

    with camera_server(endless) as port:
        stream = opened(f"http://127.0.0.1:{port}/a")
        with closing(stream.frames(seconds=20)) as frames:
            assert not stream.fetched and len(list(itertools.islice(frames, 3))) == 3


def test_a_picture_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot, "MAX_BYTES", 10_000)

    def drips(connection: socket.socket) -> None:
        send_head(connection, "image/jpeg")
        while True:
            connection.sendall(b"x")
            time.sleep(0.01)

    def endless(connection: socket.socket) -> None:
        send_head(connection, "image/jpeg")
        while True:
            connection.sendall(bytes(1000))

    for talk, reason in ((drips, "no data in time"), (endless, "sent more than 0.01 MB")):
        with camera_server(talk) as port, pytest.raises(MediaError, match=reason):
            SnapshotCamera(parse_address(f"http://127.0.0.1:{port}/a"), "camera", 0.5).fetch()


@pytest.mark.parametrize(
    ("login", "password"),
    [
        (basic_login, PASSWORD),
        (basic_login, "비밀"),
        (digest_login, PASSWORD),
        (digest_login, "비밀"),
        (lambda user, password: digest_login(user, password, "SHA-256"), PASSWORD),
    ],
)
def test_passwords(login: object, password: str, capsys: pytest.CaptureFixture[str]) -> None:
    check = login("admin", password)  # type: ignore[operator]
    with snapshot_server(login=check) as server:
        stream = opened(f"http://admin:{password}@127.0.0.1:{server.port}/a.jpg?x=1")
        with closing(stream.frames()) as frames:
            assert len(list(itertools.islice(frames, 3))) == 3
    assert stream.name == f"http://127.0.0.1:{server.port}/a.jpg"
    assert password not in capsys.readouterr().err


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs the program openssl")
def test_a_certificate_that_the_camera_made_itself(tmp_path: Path) -> None:
    key, certificate = str(tmp_path / "key.pem"), str(tmp_path / "certificate.pem")
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=camera", "-days", "1"]
    subprocess.run([*made, "-keyout", key, "-out", certificate], capture_output=True, check=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    with (
        snapshot_server(tls=context) as server,
        closing(opened(f"https://127.0.0.1:{server.port}/a").frames(seconds=20)) as frames,
    ):
        assert len(list(itertools.islice(frames, 3))) == 3


@pytest.mark.parametrize("login", [basic_login, digest_login])
def test_a_wrong_password_is_tried_once_per_fetch(login: object, monkeypatch: pytest.MonkeyPatch) -> None:
    with snapshot_server(login=login("admin", "right")) as server:  # type: ignore[operator]
        address = parse_address(f"http://admin:wrong@127.0.0.1:{server.port}/a")
        with pytest.raises(MediaError, match="answered with HTTP status 401; check the user and password"):
            SnapshotCamera(address, "camera", 5).fetch()
    assert server.logins == 1 and len(server.paths) == 2


def test_an_unknown_authentication_is_an_error() -> None:
    def check(method: str, path: str, sent: str) -> str:
        return 'Digest realm="camera", nonce="abc", qop="auth", algorithm=UNKNOWN'

    for login in (check, lambda method, path, sent: "Negotiate"):
        with snapshot_server(login=login) as server, pytest.raises(MediaError, match="HTTP status 401"):
            address = parse_address(f"http://admin:secret@127.0.0.1:{server.port}/a")
            SnapshotCamera(address, "camera", 5).fetch()
        assert server.logins == 0


def test_a_password_goes_to_its_host_only() -> None:
    with snapshot_server(login=basic_login("admin", "right")) as other:
        moved = itertools.cycle([Answer(status=302, location=f"http://127.0.0.1:{other.port}/b")])
        with snapshot_server(moved) as server, pytest.raises(MediaError, match="401"):
            address = parse_address(f"http://admin:right@127.0.0.1:{server.port}/a")
            SnapshotCamera(address, "camera", 5).fetch()
    assert other.paths == ["/b"] and other.logins == 0


def test_the_thread_ends_with_the_frames() -> None:
    with snapshot_server() as server:
        frames = (stream := opened(f"http://127.0.0.1:{server.port}/a", 0.01)).frames()
        next(frames)  # the next picture is due in 100 s
        began = time.monotonic()
        frames.close()
        assert time.monotonic() - began < 0.9
        assert not any(thread.name == stream.name for thread in threading.enumerate())


@pytest.mark.slow
def test_the_command_follows_faces_and_shows_no_password(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    use_fake_predictor(tmp_path, monkeypatch)
    with snapshot_server(login=digest_login("admin", PASSWORD)) as server:
        address = f"http://admin:{PASSWORD}@127.0.0.1:{server.port}/snapshot.jpg"
        assert run_detect(address, "--max-fps", "20", "--seconds", "2", "--out", "out") == 0
    shown = "".join(capsys.readouterr())
    assert "face 1 entered" in shown and "shows a picture; fetching it 20 times a second" in shown
    (lines,) = Path("out").glob("*.jsonl")
    rows = [json.loads(line) for line in lines.read_text().splitlines()]
    assert 15 <= len(rows) <= 41 and len(rows[-1]["faces"]) == 1
    assert next(Path("out").glob("*.mp4")).stat().st_size > 1000
    written = b"".join(path.read_bytes() + path.name.encode() for path in Path("out").iterdir())
    for part in ("admin", PASSWORD, "rd%", "p%40s", "p@s"):
        assert part not in shown and part.encode() not in written
