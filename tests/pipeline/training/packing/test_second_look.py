"""The choice of O-Net's second look and stage 2's weight: the quickest of the best."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.inference.bundle import Bundle
from pipeline.inference.bundle_meta import BundleMeta
from pipeline.training.packing import second_look
from pipeline.training.packing.command import RENAMED_FLAGS, PackArgs, _check, main
from pipeline.training.packing.second_look import CHOICES, MAX_LOSS, choose, fit_second_look


def test_the_quickest_of_the_best_is_chosen() -> None:
    figures = {
        "best": {"mAP50-95": 0.5, "milliseconds": 30},
        "as good": {"mAP50-95": 0.5 - MAX_LOSS / 2, "milliseconds": 20},
        "worse": {"mAP50-95": 0.5 - 2 * MAX_LOSS, "milliseconds": 10},
    }
    assert choose(figures) == "as good"


def test_every_choice_is_fitted_and_recorded(monkeypatch: pytest.MonkeyPatch) -> None:
    meta = replace(Bundle.load().meta, metrics={"val_crops": {}})
    calls = []

    def fit(one: BundleMeta, classifier_weight: bool) -> BundleMeta:
        look = one.search.second_look  # type: ignore[union-attr]
        calls.append((look, classifier_weight))
        # Off with a weight is the best.
        metrics = {**one.metrics, "val": {"mAP50-95": 0.6 if (look, classifier_weight) == (False, True) else 0.5}}
        weight = 0.25 if classifier_weight else 0.0
        return replace(one, fusion=replace(one.fusion, classifier_weight=weight), metrics=metrics)

    def timed(predictors: dict[str, Any], val: object) -> dict[str, float]:
        return {name: 0.01 if predictor.meta.search.second_look else 0.005 for name, predictor in predictors.items()}

    monkeypatch.setattr(second_look, "time_alternately", timed)
    chosen = fit_second_look(meta, fit, lambda one: SimpleNamespace(meta=one), [])  # type: ignore[arg-type,return-value]
    assert calls == list(CHOICES)
    assert chosen.search.second_look is False and chosen.fusion.classifier_weight == 0.25  # type: ignore[union-attr]
    record = chosen.metrics["val_second_look"]
    assert record["chosen"] == "second look off, fitted stage-2 weight" and len(record) == 1 + len(CHOICES)
    assert record[record["chosen"]]["mAP50-95"] == 0.6 and record[record["chosen"]]["milliseconds"] == 5


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ({"second_look": "off"}, "--second-look off: the stock cascade has none; name a run with --cascade"),
        ({"second_look": "compare", "cascade": "c"}, "--second-look compare: needs validation photos"),
        ({"second_look": "off", "cascade": "c", "settings_from": "s"}, "leave out .*--second-look"),
        ({"score_threshold": 1.5}, "--score-threshold is 1.5; use a number from 0 to 1"),
    ],
)
def test_flags_that_are_refused_before_the_work(flags: dict[str, Any], message: str) -> None:
    with pytest.raises(Exception, match=message):
        _check(PackArgs(run=(), out="o", **flags))  # type: ignore[arg-type]


@pytest.mark.parametrize(("old", "new"), RENAMED_FLAGS.items())
def test_a_renamed_flag_is_refused_with_the_new_name(old: str, new: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--run", "r", "--out", "o", old, "0.5"]) == 1
    assert capsys.readouterr().err == f"error: {old}: has a new name; use {new}\n"
