"""The folder of one baseline: config.json, log.jsonl, best.safetensors, and last.pt, the state to go on from."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from common.errors import UserError
from common.files import write_bytes, write_text
from pipeline.baseline.model import build_detector
from stage1_faces.training.run_folder import RunFolder
from stage2_classifier.training.checkpoint import load_state, save_state

HEADER = "one_stage_baseline"
FREE = ("data", "splits", "versions")  # a run that goes on may differ in these
# config.json last, so that a kill on the way leaves what is known as a run.
OWN = ("baseline.json", "baseline.md", "predictions.coco.json", "last.pt", "best.safetensors", "log.jsonl")


@dataclass(frozen=True)
class Best:
    """What must travel with the best epoch's weights to build the model, and how good it was on validation photos.

    size, small_anchors: as in Recipe. epoch: 1-based. threshold: the score of the best F1 on validation photos.
    """

    model: str
    class_names: tuple[str, ...]
    size: int | None
    small_anchors: bool
    epoch: int
    map50: float
    threshold: float


class BaselineFolder:
    """One run's files, each replaced in one step, so that a kill leaves the old or the new one."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def start(self, record: Mapping[str, Any], overwrite: bool = False) -> None:
        """Takes the folder for a run of `record`, or goes on with such a run.

        Raises UserError when it holds another run (unless it is a baseline without a whole epoch, or one that
        `overwrite` removes) or other files, UserError when another process trains there.
        """
        file = self.path / "config.json"
        before = self._config(file)
        if before is None:
            if self.path.is_dir() and any(".tmp" not in path.suffixes for path in self.path.iterdir()):
                raise UserError(f"{self.path}: is not empty and holds no baseline; give another --out")
        elif HEADER not in before:
            raise UserError(f"{self.path}: holds a run of another kind; give another --out")
        elif overwrite or not any((self.path / name).exists() for name in OWN):
            with self.held():
                for name in (*OWN, "config.json"):
                    (self.path / name).unlink(missing_ok=True)
        else:
            now = json.loads(json.dumps(record))
            for name in now:
                if name not in FREE and before.get(name) != now[name]:
                    raise UserError(
                        f"{self.path}: holds a baseline with another {name} ({before.get(name)!r}, now {now[name]!r}); "
                        "go on with the same, or give --overwrite or another --out"
                    )
            return
        write_text(file, json.dumps({HEADER: 1, **record}, indent=2) + "\n")

    @staticmethod
    def _config(file: Path) -> dict[str, Any] | None:
        if not file.is_file():
            return None
        try:
            return dict(json.loads(file.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise UserError(f"{file}: damaged ({error}); give another --out") from error

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keeps other processes from training here. Raises UserError when one does."""
        with RunFolder(self.path).held():
            yield

    def rows(self) -> list[dict[str, Any]]:
        """The lines of log.jsonl, one an epoch. Raises UserError when it is damaged."""
        file = self.path / "log.jsonl"
        if not file.is_file():
            return []
        try:
            return [dict(json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]
        except (ValueError, TypeError) as error:
            raise UserError(f"{file}: damaged ({error}); give --overwrite or another --out") from error

    def finished(self, epochs: int) -> bool:
        """Whether all epochs are done: the state to go on from is removed last."""
        done = (self.path / "best.safetensors").is_file() and not (self.path / "last.pt").exists()
        return done and len(self.rows()) == epochs

    def state(self) -> dict[str, Any] | None:
        """The state after the last whole epoch, None when there is none. Raises UserError when it is damaged."""
        file = self.path / "last.pt"
        return load_state(file) if file.is_file() else None

    def write_epoch(self, state: Mapping[str, Any], history: Sequence[Mapping[str, Any]]) -> None:
        """Writes the state after an epoch, which holds the history, too, and log.jsonl."""
        save_state(self.path / "last.pt", {**state, "history": list(history)})
        self.write_log(history)

    def write_log(self, history: Sequence[Mapping[str, Any]]) -> None:
        """Writes log.jsonl: one JSON line an epoch."""
        write_text(self.path / "log.jsonl", "".join(json.dumps(row) + "\n" for row in history))

    def save_best(self, model: nn.Module, best: Best) -> None:
        """Writes the best epoch's weights; to be called before `write_epoch`: a kill between only repeats the epoch."""
        tensors = {name: t.detach().cpu().contiguous().clone() for name, t in model.state_dict().items()}
        write_bytes(self.path / "best.safetensors", save(tensors, {HEADER: json.dumps(asdict(best))}))

    def tidy(self) -> None:
        """Removes the state to go on from, once all epochs are done."""
        (self.path / "last.pt").unlink(missing_ok=True)


def load_best(file: Path) -> tuple[nn.Module, Best]:
    """The detector of a best.safetensors, in eval mode on the CPU. Raises UserError when it cannot be used."""
    try:
        with safe_open(file, framework="pt") as f:
            header = json.loads((f.metadata() or {}).get(HEADER, "null"))
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  # not a dict
        best = Best(**header | {"class_names": tuple(header["class_names"])})
        model = build_detector(best.model, len(best.class_names), best.size, best.small_anchors)
        model.load_state_dict(tensors)
    except (SafetensorError, OSError, ValueError, KeyError, TypeError, RuntimeError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{file}: not a baseline's weights ({reason}); train it anew with --overwrite") from error
    return model.eval(), best
