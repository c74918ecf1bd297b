"""JPEGs one after the other, also with HTTP heads between them: FFmpeg takes them for a single picture."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from common.decoding.jpeg_end import SOI, complete_jpeg, has_end, has_torn_header

if TYPE_CHECKING:
    from av import Packet
    from av.container import InputContainer

FORMAT = "mjpeg"  # FFmpeg's name of joined JPEGs
PICTURE_FORMATS = ("jpeg_pipe", "mpjpeg")  # what FFmpeg takes them for; mpjpeg needs the length of each part
SUFFIXES = (".mjpeg", ".mjpg")
MAX_HEAD = 1 << 16  # bytes before the first JPEG, such as an HTTP head


def open_container(address: str) -> InputContainer:
    """Open a file with PyAV; joined JPEGs are opened as a video.

    Args:
        address: "file:" and the file's name.

    Raises:
        av.error.FFmpegError: the file cannot be opened.
    """
    import av

    path = Path(address.removeprefix("file:"))
    named_so = path.suffix.lower() in SUFFIXES
    try:
        container = av.open(address)
    except av.error.InvalidDataError:  # also for progressive JPEGs
        if named_so and _begins_with_jpeg(path):
            return av.open(address, format=FORMAT)
        raise
    if container.format.name not in PICTURE_FORMATS:
        return container
    container.close()
    if named_so:
        return av.open(address, format=FORMAT)  # one picture is a video of one frame
    with av.open(address, format=FORMAT) as video:
        packets = sum(1 for _ in islice(video.demux(video=0), 3))  # the last one is empty
    return av.open(address, format=FORMAT if packets > 2 else "jpeg_pipe")


def is_torn(packet: Packet) -> bool:
    """Return whether pixels are missing in a packet of joined JPEGs; FFmpeg fills them up."""
    data = bytes(packet)
    data = data[data.find(SOI) :]  # an HTTP head may be before it
    return len(data) > 1 and not has_end(data) and complete_jpeg(data) is None


def follows_torn_header(packet: Packet) -> bool:
    """Return whether a packet of joined JPEGs begins with a JPEG cut inside its header; a whole one follows it."""
    data = bytes(packet)
    return has_torn_header(data[max(data.find(SOI), 0) :])


def _begins_with_jpeg(path: Path) -> bool:
    with path.open("rb") as file:
        return SOI in file.read(MAX_HEAD)
