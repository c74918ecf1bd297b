"""In which frames the detector runs."""

from __future__ import annotations

import numpy as np
import pytest

from pipeline.video.motion.frame_selection import MAX_HOLD, FrameSelector, MotionGate, block_means
from pipeline.video.reader import Frame

SIZE = (640, 360)


def frame(
    index: int, time: float, face: tuple[int, int] | None = None, light: float = 1.0, size: tuple[int, int] = SIZE
) -> Frame:
    """Return a noisy grey picture, with a face of 16 px of little contrast at a place."""
    generator = np.random.default_rng(index)
    pixels = light * generator.normal(110, 6, (size[1], size[0], 3))
    if face is not None:
        x, y = face
        pixels[y : y + 16, x : x + 16] += 40
    return Frame(index, time, pixels.clip(0, 255).astype(np.uint8))


def test_noise_and_exposure_do_not_open_and_a_small_face_does() -> None:
    gate = MotionGate()
    assert gate.should_detect(frame(0, 0.0))
    assert not any(gate.should_detect(frame(k, k * 0.04, light=1 + k / 20)) for k in range(1, 6))
    assert gate.should_detect(frame(6, 0.24, face=(100, 100), light=1.3))
    assert not gate.should_detect(frame(7, 0.28, face=(100, 100)))
    assert gate.should_detect(frame(8, 0.32, face=(130, 100)))
    assert gate.should_detect(frame(9, 0.36))


def test_slow_motion_adds_up() -> None:
    """Frames are compared with the last one in which the detector ran, not with the one before."""
    gate = MotionGate()
    opened = [gate.should_detect(frame(k, k * 0.04, face=(100 + 2 * k, 100))) for k in range(20)]
    assert opened[0] and sum(opened) >= 2 and not all(opened)


def test_a_still_scene_is_looked_at_once_in_a_while() -> None:
    gate = MotionGate()
    times = [k * 0.1 for k in range(31)]
    runs = [t for k, t in enumerate(times) if gate.should_detect(frame(k, t))]
    assert runs == [pytest.approx(k * MAX_HOLD, abs=0.11) for k in range(len(runs))] and len(runs) == 4


def test_another_size_opens() -> None:
    gate = MotionGate()
    assert gate.should_detect(frame(0, 0.0))
    assert gate.should_detect(frame(1, 0.04, size=(360, 640)))


@pytest.mark.parametrize("shape", [(1, 1), (1, 4000), (4000, 1), (37, 53)])
def test_frames_of_any_size(shape: tuple[int, int]) -> None:
    means = block_means(np.full((*shape, 3), 7, np.uint8))
    assert means.shape[1] == 20 and means.shape[0] >= 1 and (means == 7).all()


def test_marks() -> None:
    frames = [frame(k, k * 0.04) for k in range(7)]
    assert [f.action for f in FrameSelector(3).marked(frames)] == [
        "detect", "follow", "follow", "detect", "follow", "follow", "detect"
    ]  # fmt: skip
    assert [f.action for f in FrameSelector(3, motion=True).marked(frames)] == [
        "detect", "follow", "follow", "hold", "follow", "follow", "hold"
    ]  # fmt: skip
    assert [f.index for f in FrameSelector(2).marked(iter(frames))] == list(range(7))
    assert all(f.action == "detect" for f in FrameSelector().marked(frames))
