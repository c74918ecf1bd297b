"""Fake network cameras: real servers on 127.0.0.1 that speak HTTP and RTSP."""

from __future__ import annotations

import itertools
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import av
import cv2

from tests.helpers.video.made_videos import blob_frame, walk

Conversation = Callable[[socket.socket], None]  # the server's side of one connection


@contextmanager
def camera_server(*conversations: Conversation) -> Iterator[int]:
    """Run a server on 127.0.0.1 and yield its port: one conversation per connection, the last one repeated."""
    remaining = itertools.chain(conversations, itertools.repeat(conversations[-1]))

    def talk(connection: socket.socket) -> None:
        with connection, suppress(OSError):
            next(remaining)(connection)

    def accept() -> None:
        with suppress(OSError):
            while True:
                threading.Thread(target=talk, args=server.accept()[:1], daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as server:
        threading.Thread(target=accept, daemon=True).start()
        yield server.getsockname()[1]
        with suppress(OSError):
            server.shutdown(socket.SHUT_RDWR)  # close() alone does not wake accept()


def send_head(connection: socket.socket, content_type: str, more: str = "") -> None:
    while b"\r\n\r\n" not in connection.recv(65536):
        pass
    connection.sendall(f"HTTP/1.0 200 OK\r\nContent-Type: {content_type}\r\n{more}\r\n".encode())


def mjpeg_camera(
    frames: int | None = None, rate: float = 100, then: Callable[[], object] = lambda: None, torn: int = 0
) -> Conversation:
    """Send `frames` JPEGs, or JPEGs without an end, then call `then`; every `torn`th JPEG is damaged."""

    def talk(connection: socket.socket) -> None:
        send_head(connection, "multipart/x-mixed-replace; boundary=part")
        for i in itertools.count() if frames is None else range(frames):
            picture = cv2.imencode(".jpg", blob_frame(walk(i))[..., ::-1])[1].tobytes()
            if torn and i % torn == torn - 1:
                picture = picture[:20] + bytes(len(picture) - 20)
            head = f"--part\r\nContent-Type: image/jpeg\r\nContent-Length: {len(picture)}\r\n\r\n"
            connection.sendall(head.encode() + picture + b"\r\n")
            time.sleep(1 / rate)
        then()

    return talk


def never_answer(connection: socket.socket) -> None:
    connection.settimeout(20)
    while connection.recv(65536):
        pass


def answer_503(connection: socket.socket) -> None:
    connection.recv(65536)
    connection.sendall(b"HTTP/1.0 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")


def rtp_packets(first: int) -> Iterator[bytes]:
    """Yield real-time packets of H.264 that FFmpeg writes to our socket: the walk from frame `first` on."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inbox:
        inbox.bind(("127.0.0.1", 0))
        inbox.settimeout(0.01)
        address = f"rtp://127.0.0.1:{inbox.getsockname()[1]}"
        with av.open(address, "w", format="rtp") as container:
            stream = container.add_stream("libx264", rate=25, width=96, height=64, pix_fmt="yuv420p")
            stream.codec_context.gop_size = 5
            stream.options = {"preset": "ultrafast", "tune": "zerolatency", "x264-params": "repeat-headers=1"}
            for i in itertools.count(first):
                frame = av.VideoFrame.from_ndarray(blob_frame(walk(i)), format="rgb24")
                container.mux(stream.encode(frame))
                with suppress(TimeoutError):
                    while True:
                        yield inbox.recv(65536)


SDP = """v=0
o=- 0 0 IN IP4 127.0.0.1
s=camera
t=0 0
m=video 0 RTP/AVP 96
a=rtpmap:96 H264/90000
a=fmtp:96 packetization-mode=1
a=control:track
""".replace("\n", "\r\n")


def rtsp_camera(
    packets: int, drop: int = 0, first: int = 0, login: Callable[[str, str, str], str] | None = None
) -> Conversation:
    """Speak RTSP over TCP and hang up after `packets` packets; every `drop`th packet is left out.

    `login` checks a method, an address and what was sent; it returns a challenge, or "" for the right password.
    """
    answers = {
        "OPTIONS": ("Public: DESCRIBE, SETUP, PLAY\r\n", ""),
        "DESCRIBE": ("Content-Type: application/sdp\r\n", SDP),
        "SETUP": ("Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n", ""),
        "PLAY": ("Session: 1\r\n", ""),
    }

    def talk(connection: socket.socket) -> None:
        request = connection.makefile("rb")
        method = ""
        while method != "PLAY":
            lines = list(iter(lambda: request.readline().decode().strip(), ""))
            if not lines:  # the client has gone
                return
            method = lines[0].split()[0]
            assert "secret" not in lines[0]
            assert method != "SETUP" or "RTP/AVP/TCP" in "".join(lines)  # over UDP, packets would be lost
            count = next(line for line in lines if line.lower().startswith("cseq"))
            sent = next((line[15:] for line in lines if line.lower().startswith("authorization: ")), "")
            challenge = login(method, lines[0].split()[1], sent) if login and method != "OPTIONS" else ""
            head, body = (f"WWW-Authenticate: {challenge}\r\n", "") if challenge else answers[method]
            method, status = ("", "401 Unauthorized") if challenge else (method, "200 OK")
            text = f"RTSP/1.0 {status}\r\n{count}\r\n{head}Content-Length: {len(body)}\r\n\r\n{body}"
            connection.sendall(text.encode())
        for i, packet in enumerate(itertools.islice(rtp_packets(first), packets)):
            if not drop or i % drop:
                channel = 1 if 200 <= packet[1] <= 204 else 0  # reports, pictures
                connection.sendall(b"$" + bytes([channel]) + len(packet).to_bytes(2) + packet)

    return talk
