"""What a quick fine-tuning writes, and comparisons of two runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from stage1_faces.training.run_folder import NETS, FinetuneFolder
from tests.helpers.training.quick_finetune import run

ROOT = Path(__file__).resolve().parents[3]

EPOCHS = {"pnet": 3, "rnet": 2, "onet": 2}

FINISHED = ["config.json", "landmarks.npz", "log.jsonl", "onet.safetensors", "pnet.safetensors", "rnet.safetensors"]


class Killed(BaseException):
    """Ends a run in these tests: no `except Exception` may catch it."""


def result(out: Path) -> dict[str, Any]:
    """Return everything that a run writes, except its times."""
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in FinetuneFolder(out).rows()]
    weights = {name: (out / f"{name}.safetensors").read_bytes() for name in NETS}
    return {"files": sorted(path.name for path in out.iterdir()), "rows": rows, **weights}


def check_same(out: Path, unbroken: Path) -> None:
    ours, theirs = result(out), result(unbroken)
    for part, value in theirs.items():
        assert ours[part] == value, part


def until_done(data: Path, out: Path, most: int = 60) -> int:
    """Start the run again after each kill; return the number of kills."""
    for kills in range(most):
        try:
            run(data, out)
            return kills
        except Killed:
            pass
    raise AssertionError(f"not finished after {most} kills")
