"""Frames per second of made videos: what the videos show, and the table."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pipeline.bench import video_rates
from pipeline.bench.video_rates import MOVING, STILL, WAYS, frames, rates_tables, time_videos


def test_a_still_camera_sees_noise_and_one_face_leave() -> None:
    seen = [frame.astype(float) for frame in frames(STILL, 6)]
    steps = [np.abs(a - b).mean() for a, b in pairwise(seen)]
    assert all(0.5 < step < 4 for k, step in enumerate(steps) if k != 2)
    assert steps[2] > 4
    moving = [frame.astype(float) for frame in frames(MOVING, 40)]
    assert np.abs(moving[39] - moving[0]).mean() > 10
    assert {frame.shape for frame in (*seen, *moving)} == {(480, 640, 3)}


def test_ways_take_turns_and_the_start_is_taken_off(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def run(arguments: list[Any]) -> dict[str, float]:
        name, _, *flags = (str(each) for each in arguments)
        calls.append((Path(name).stem, tuple(flags)))
        looks = 1 if "start" in name else 10 / (int(flags[1]) if flags[:1] == ["--frame-stride"] else 1)
        return {"seconds": 0.5 + 0.1 * looks}

    monkeypatch.setattr(video_rates, "run_detect", run)
    record = time_videos(2, ["--threads", "2"], seconds=0.4)
    assert record["frames"] == 10 and len(record["rows"]) == 2 * len(WAYS)
    one_round = [("start", ()), *((MOVING, flags) for _, flags in WAYS)]
    assert calls[: len(one_round)] == [(name, (*flags, "--threads", "2")) for name, flags in one_round]
    assert len(calls) == 4 * len(one_round)
    rows = {(row["camera"], row["options"]): row for row in record["rows"]}
    assert rows[MOVING, "every frame"]["frames_per_second"]["median"] == pytest.approx(10 / 0.9)
    assert rows[STILL, "--frame-stride 5"]["frames_per_second"]["median"] == pytest.approx(10 / 0.1)
    assert rows[STILL, "--frame-stride 5"]["ratio"]["median"] == pytest.approx(9)
    (table,) = rates_tables(record)
    assert table.rows[0][:3] == (MOVING, "every frame", "11.1") and table.rows[-1][0] == STILL


@pytest.mark.slow
def test_real_videos() -> None:
    record = time_videos(1, [], seconds=1)
    assert [(row["camera"], row["options"]) for row in record["rows"]] == [
        (camera, name) for camera in (MOVING, STILL) for name, _ in WAYS
    ]
    assert all(row["frames_per_second"]["median"] > 0 for row in record["rows"])
