"""The folder of one baseline: the best weights, and last.pt, the state from which a killed run resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from common.errors import UserError, first_line
from common.run_folder import RunFolder
from common.training.state_file import save_state
from pipeline.baseline.model import build_detector
from stage2_classifier.training.checkpoint import load_state

HEADER = "one_stage_baseline"
FREE_KEYS = ("data", "splits", "versions")
OUTPUTS = ("baseline.json", "baseline.md", "predictions.coco.json", "last.pt", "best.safetensors", "log.jsonl")


@dataclass(frozen=True)
class Best:
    """What the weights of the best epoch need to be built and used again."""

    model: str  # name of torchvision's detector
    class_names: tuple[str, ...]
    size: int | None  # the shorter side of the input in pixels; None: the model's own
    small_anchors: bool  # whether the anchors are a quarter of the usual size
    epoch: int  # 1-based
    map50: float  # mAP50 on validation photos
    threshold: float  # score of the best F1 on validation photos


class BaselineFolder(RunFolder):
    """The files of one baseline: config.json, log.jsonl, the best weights, and the state of a run in training."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, "baseline", outputs=OUTPUTS, free_keys=FREE_KEYS, marker=HEADER)

    def finished(self, epochs: int) -> bool:
        """Return whether all epochs are done: the state is removed last."""
        done = (self.path / "best.safetensors").is_file() and not (self.path / "last.pt").exists()
        return done and len(self.rows()) == epochs

    def state(self) -> dict[str, Any] | None:
        """Return the state after the last whole epoch; None without a file. Raises UserError on a damaged file."""
        file = self.path / "last.pt"
        return load_state(file) if file.is_file() else None

    def write_epoch(self, state: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
        """Write the state after an epoch, which includes the history, and log.jsonl."""
        save_state(self.path / "last.pt", {**state, "history": list(history)})
        self.write_rows(history)

    def save_best(self, model: nn.Module, best: Best) -> None:
        """Write the best epoch's weights. Call this before `write_epoch`: a kill in between only repeats the epoch."""
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
        self.write("best.safetensors", save(tensors, {HEADER: json.dumps(asdict(best))}))

    def tidy(self) -> None:
        """Remove the state, once all epochs are done."""
        (self.path / "last.pt").unlink(missing_ok=True)


def load_best(file: Path) -> tuple[nn.Module, Best]:
    """Return the detector of a best.safetensors, in eval mode on the CPU. Raises UserError on an unusable file."""
    try:
        with safe_open(file, framework="pt") as f:
            header = json.loads((f.metadata() or {}).get(HEADER, "null"))
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  # not a dict
        best = Best(**header | {"class_names": tuple(header["class_names"])})
        model = build_detector(best.model, len(best.class_names), best.size, best.small_anchors)
        model.load_state_dict(tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = first_line(error)
        raise UserError(f"{file}: not a baseline's weights ({reason}); train it again with --overwrite") from error
    return model.eval(), best
