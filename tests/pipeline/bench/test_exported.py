"""pipeline.bench.exported: what is counted; speed itself is not tested."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import numpy as np
import pytest

from common.errors import UserError
from pipeline.bench import exported
from pipeline.bench.exported import agreeing, compare_exported, exported_tables
from pipeline.bench.photos import BenchPhoto
from pipeline.bench.synthetic_photos import synthetic_photo
from pipeline.inference.bundle import Bundle
from pipeline.inference.predictor import Predictor
from stage1_faces.stock.mtcnn import MtcnnConfig


@pytest.mark.slow
def test_the_record_and_its_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exported, "SIZES", ((320, 240),))
    predictor, pixels = Predictor.default(), [synthetic_photo(320, 240, faces) for faces in (0, 2)]
    photos = [BenchPhoto("photo", partial(np.copy, each)) for each in pixels]
    record = compare_exported(predictor, photos, None, threads=1, rounds=1)
    assert record["faces"] == record["exported_faces"] == record["agreeing"] == 2
    assert len(record["ms"]) == len(record["exported_ms"]) == 2 and min(*record["ms"], *record["exported_ms"]) > 0
    table, by_size = exported_tables(record)
    assert table.rows[-1] == ("file / pipeline", f"{sum(record['exported_ms']) / sum(record['ms']):.3f}")
    (one,) = record["sizes"]
    assert all(20 < peak < 500 for peak in one["megabytes"])
    assert by_size.rows[0][0] == "320x240" and by_size.rows[0][3] == f"{one['ms'][1] / one['ms'][0]:.2f}"


def test_faces_that_moved_or_have_another_label_do_not_agree() -> None:
    found = Predictor.default().detect(synthetic_photo(320, 240, 2))
    assert agreeing(found, found) == 2
    assert agreeing(found, replace(found, boxes=found.boxes + np.float32([[0], [20]]))) == 1
    assert agreeing(found, replace(found, class_probs=np.roll(found.class_probs, 1, axis=1))) == 0
    assert agreeing(found, found[:0]) == 0


def test_a_stock_cascade_is_refused() -> None:
    predictor = Predictor(Bundle.load())
    predictor.bundle = replace_search(predictor.bundle)
    with pytest.raises(UserError, match="stock cascade"):
        compare_exported(predictor, [], None, threads=1, rounds=1)


def replace_search(bundle: Bundle) -> Bundle:
    """Return a bundle that says that it has the stock cascade."""
    return Bundle(bundle.path, replace(bundle.meta, search=MtcnnConfig()), {})
