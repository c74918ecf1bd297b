"""Records of runs, also of earlier versions."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path

import pytest

from common.errors import UserError
from stage2_classifier.config import RENAMED_FIELDS, TrainConfig
from stage2_classifier.reports.runs import LATER_FIELDS, read_run
from tests.helpers.training.scored_runs import NOON, make_run


def test_the_best_epoch_is_read(tmp_path: Path) -> None:
    run = read_run(make_run(tmp_path / "base", val_f1=0.77))
    assert (run.name, run.best_epoch, run.best["val_macro_f1"]) == ("base", 2, 0.77)


def test_a_time_without_zone_is_utc(tmp_path: Path) -> None:
    assert read_run(make_run(tmp_path / "a", finished="2026-01-02T12:00:00")).finished == NOON
    assert read_run(make_run(tmp_path / "b", finished="2026-01-02T14:00:00+02:00")).finished == NOON
    assert read_run(make_run(tmp_path / "c")).finished is None


def test_runs_with_the_field_names_of_earlier_versions_are_read(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "old", description="Why?", hard_negatives=0.25, box_head=True, checkpoint_epoch="last")
    present = read_run(folder)
    old_names = {new: old for old, new in RENAMED_FIELDS.items()}
    record = json.loads((folder / "config.json").read_text()) | {"augment": "own"}
    (folder / "config.json").write_text(json.dumps({old_names.get(k, k): v for k, v in record.items()}))
    assert "rejects" in (folder / "config.json").read_text()
    assert read_run(folder) == present and present.train_config.augment == "opencv"


def test_only_later_fields_may_be_missing(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "run")
    record = json.loads((folder / "config.json").read_text())
    for name in (field.name for field in fields(TrainConfig)):
        (folder / "config.json").write_text(json.dumps({k: v for k, v in record.items() if k != name}))
        if name in LATER_FIELDS:
            read_run(folder)
        else:
            with pytest.raises(UserError, match=rf"config\.json: lacks {name}; train the run again"):
                read_run(folder)
