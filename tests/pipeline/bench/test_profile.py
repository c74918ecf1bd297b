"""pipeline.bench.profile: what is timed and counted; speed itself is not tested."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest

from common.errors import UserError
from pipeline.bench import profile
from pipeline.bench.profile import AROUND, NETS, REST, profile_sizes, profile_tables
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.inference.bundle import Bundle
from pipeline.inference.predictor import Predictor
from stage1_faces.stock.mtcnn import MtcnnConfig

PROFILE = partial(profile_sizes, min_face=None, threads=1, device="cpu", rounds=1)


def test_the_parts_of_photos_with_and_without_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "SIZES", ((320, 240),))
    monkeypatch.setattr(profile, "FACES", (0, 2))
    bundle = Bundle.load()
    empty, two = PROFILE(bundle)
    assert [(one["width"], one["height"], one["faces"]) for one in (empty, two)] == [(320, 240, 0), (320, 240, 2)]
    assert (empty["found"], two["found"]) == (0, len(Predictor(bundle).detect(synthetic_photo(320, 240, 2)))) == (0, 2)
    for one in (empty, two):
        parts = [f"{name}: {what}" for name in NETS for what in ("net", AROUND)]
        assert list(one["ms"]) == [*parts, REST]
        assert all(ms >= 0 for ms in one["ms"].values())
        assert list(one["windows"]) == list(NETS)
    # Both photos have one size, so P-Net reads as many pixels; faces cost windows.
    assert empty["windows"]["pnet"] == two["windows"]["pnet"] > 320 * 240
    assert two["windows"]["classifier"] >= 2 and two["ms"]["classifier: net"] > 0
    times, work = profile_tables([empty, two])
    assert [row[:2] for row in times.rows] == [row[:2] for row in work.rows] == [("320x240", "0"), ("320x240", "2")]
    assert all(len(row) == len(table.header) for table in (times, work) for row in table.rows)
    assert float(times.rows[1][-1]) == pytest.approx(sum(two["ms"].values()), abs=0.06)
    assert work.rows[1][-1] == str(two["windows"]["classifier"])


def test_each_photo_is_counted_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile, "SIZES", ((320, 240), (320, 240)))
    monkeypatch.setattr(profile, "FACES", (1,))
    first, second = PROFILE(Bundle.load())
    assert first["windows"] == second["windows"]


def test_a_stock_cascade_is_refused() -> None:
    bundle = Bundle.load()
    stock = Bundle(bundle.path, replace(bundle.meta, search=MtcnnConfig()), {})
    with pytest.raises(UserError, match="stock cascade"):
        PROFILE(stock)
