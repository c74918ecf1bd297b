"""Reads animated pictures (GIF, WebP, PNG, AVIF) frame by frame, by Pillow: FFmpeg decodes no animated WebP."""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from fractions import Fraction
from pathlib import Path

from PIL import Image

from common.errors import MediaError
from common.images import open_image_file, open_undecoded, upright_pixels
from pipeline.video.reader import MIN_RATE, Frame, FrameSampler

SUFFIXES = frozenset({".gif", ".webp", ".png", ".apng", ".avif"})
DEFAULT_SECONDS = 0.1  # of a frame without a duration, as in browsers
_GIF_END = b";"  # a file's last byte, which some programs pad
_PADDING, _END_BYTES = b"\0\r\n\t ", 64


def is_animation(path: str) -> bool:
    """Return whether a file is a picture of several frames; False where it cannot be opened."""
    if Path(path).suffix.lower() not in SUFFIXES:
        return False
    try:
        with open_image_file(path) as file, open_undecoded(file, path) as image:
            return bool(getattr(image, "is_animated", False))
    except MediaError:
        return False


class AnimationFile:
    """The frames of an animation, once from the first to the last; call `frames` once.

    Args:
        path: file name.

    Raises:
        MediaError: it cannot be opened.
    """

    def __init__(self, path: str) -> None:
        self.name = path
        self.seconds: float | None = None  # known only at the end
        self.damage: MediaError | None = None  # the error of a damaged file, once `frames` has ended
        with open_image_file(path) as file, open_undecoded(file, path) as image:
            image.load()
            # Frames per second, of the first frame.
            self.rate = max(Fraction(1 / _seconds(image)).limit_denominator(1000), MIN_RATE)

    def frames(self, sampler: FrameSampler | None = None, seconds: float | None = None) -> Generator[Frame]:
        """Yield the frames of the first `seconds` that `sampler` takes; of a damaged file, those before the damage."""
        sampler = sampler or FrameSampler()
        count, time = 0, 0.0
        try:
            with closing(self._pictures()) as pictures:
                for image, duration in pictures:
                    if seconds is not None and time >= seconds:
                        return
                    if sampler.takes(time):
                        yield Frame(count, time, upright_pixels(image))
                    count, time = count + 1, time + duration
        except MediaError as error:
            reason = error.reason.partition("(")[2].rpartition(")")[0] or "a frame cannot be decoded"
            what = f"is truncated or broken ({reason}): read {count} frames, the last before {time:.1f} s"
            self.damage = MediaError(self.name, f"{what}; copy or download it again")

    def _pictures(self) -> Generator[tuple[Image.Image, float]]:
        """Yield each loaded frame and its seconds; raise MediaError where the file is damaged."""
        with open_image_file(self.name) as file, open_undecoded(file, self.name) as image:
            # A PNG may begin with a picture for programs that know no animations; browsers do not play it.
            count = int(getattr(image, "default_image", False))
            while _seek(image, count):
                image.load()
                yield image, _seconds(image)
                count += 1
            expected = getattr(image, "n_frames", 1)
            if image.format == "GIF":
                file.seek(max(file.seek(0, 2) - _END_BYTES, 0))
                expected += not file.read().rstrip(_PADDING).endswith(_GIF_END)
        if count < expected:
            raise MediaError(self.name, "is truncated or broken (its last frames are missing)")


def _seek(image: Image.Image, number: int) -> bool:
    """Go to a frame; return whether there is one."""
    try:
        image.seek(number)
    except EOFError:
        return False
    return True


def _seconds(image: Image.Image) -> float:
    """Return how long the present frame is shown."""
    milliseconds = image.info.get("duration", 0)
    return milliseconds / 1000 if milliseconds > 0 else DEFAULT_SECONDS
