"""A short training on coloured squares, and what it leaves."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stage2_classifier.config import TrainConfig
from stage2_classifier.training import fit as fit_module

QUICK = TrainConfig(
    name="quick",
    model="small_cnn_half",
    sampler_power=1.0,
    input_size=32,
    batch_size=8,
    epochs=4,
    warmup_epochs=1,
    lr=5e-3,
    augment="none",
    patience=0,
    ema_decay=0.9,
)


def rows(folder: Path) -> list[dict[str, Any]]:
    """Return the lines of metrics.jsonl without the seconds, which differ between runs."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def break_after(epochs: int, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    """Make fit fail after `epochs` epochs: in the next epoch, or before that epoch's files are written."""
    whole = fit_module.write_epoch if step == "write_epoch" else fit_module.train_one_epoch
    calls = 0

    def broken(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls > epochs:
            raise KeyboardInterrupt
        return whole(*args)

    monkeypatch.setattr(fit_module, step, broken)
