"""The folder of one fine-tuning: the finished nets, and the state from which a killed run resumes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from common.errors import UserError
from common.run_folder import ROWS_NAME, RunFolder
from common.training.state_file import load_state, state_bytes
from stage1_faces.training.finetune_config import MAX_PNET_WIDTH, FinetuneConfig
from stage1_faces.training.nets import PNET_WIDTH, build_net

NETS = ("pnet", "rnet", "onet")
HEADER = "face_cascade"
# Files that only the training needs: up to 100 MB, made again when they are missing.
TEMPORARY = tuple(f"{name}{end}" for name in NETS for end in (".state", ".windows.npz"))
OUTPUTS = (ROWS_NAME, "landmarks.npz", "teacher.npz", *(f"{name}.safetensors" for name in NETS), *TEMPORARY)


class FinetuneFolder(RunFolder):
    """The files of one fine-tuning: config.json, log.jsonl, the finished nets, and the state of the net in training."""

    def __init__(self, path: Path | str) -> None:
        super().__init__(path, "fine-tuning", outputs=OUTPUTS, free_keys=("compute", "dataset"))

    def check_same(self, record: Mapping[str, Any], before: Mapping[str, Any] | None = None) -> None:
        """Raise UserError where the folder's record is another run's; an older one lacks newer fields."""
        before = self.read_record() if before is None else before
        if isinstance(before.get("recipe"), Mapping):
            before = {**before, "recipe": {**asdict(FinetuneConfig()), **before["recipe"]}}
        if isinstance(before.get("sources"), Mapping):
            before = {**before, "sources": _with_new_facts(before["sources"], record.get("sources", {}))}
        super().check_same(record, before)

    @property
    def finished(self) -> bool:
        """Whether all nets and their reports are there: the temporary files are removed last."""
        nets = all((self.path / f"{name}.safetensors").is_file() for name in NETS)
        return nets and not any((self.path / name).exists() for name in TEMPORARY)

    def tidy(self) -> None:
        """Remove the files that only the training needs."""
        for name in TEMPORARY:
            (self.path / name).unlink(missing_ok=True)

    def rows(self) -> list[dict[str, Any]]:
        """Return the lines of log.jsonl. Raises UserError when the file is damaged."""
        rows = super().rows()
        if not all("net" in row for row in rows):
            raise UserError(f"{self.path / ROWS_NAME}: damaged (a line names no net); give {self._advice()}")
        return rows

    def save_net(self, name: str, net: nn.Module, facts: Mapping[str, Any]) -> None:
        """Write a finished net's weights, with `facts` in the file's header, and remove the net's state."""
        tensors = {key: value.detach().cpu().contiguous().clone() for key, value in net.state_dict().items()}
        self.write(f"{name}.safetensors", save(tensors, {HEADER: json.dumps({"net": name, **facts})}))
        (self.path / f"{name}.state").unlink(missing_ok=True)

    def save_state(self, name: str, state: Mapping[str, Any]) -> None:
        """Write the state of a net in training: tensors, numbers, strings, lists, dictionaries."""
        self.write(f"{name}.state", state_bytes(state))

    def load_state(self, name: str) -> dict[str, Any] | None:
        """Return what `save_state` wrote, without running code from the file; None where there is no file.

        Raises:
            UserError: the file is damaged or of another version.
        """
        file = self.path / f"{name}.state"
        if not file.is_file():
            return None
        return load_state(file, "remove it to train this net again")


def _with_new_facts(before: Mapping[str, Any], now: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return {source: facts} of a record, with facts of `now` that the record does not have.

    What these facts say of the photos is in the record's fingerprint, too.
    """
    return {name: {**now.get(name, {}), **facts} for name, facts in before.items()}


def load_net(folder: Path | str, name: str) -> nn.Module:
    """Return a finished net of a run, in eval mode.

    Args:
        folder: the run's folder.
        name: "pnet", "rnet" or "onet". P-Net's width is in the file's header.

    Raises:
        UserError: the file is missing, damaged or another net's.
    """
    file = Path(folder) / f"{name}.safetensors"
    if not file.is_file():
        raise UserError(f"{file}: not found; train it with `python -m stage1_faces.finetune --out {folder}`")
    try:
        with safe_open(file, framework="pt") as f:
            header = json.loads((f.metadata() or {}).get(HEADER, "{}"))
            tensors: dict[str, Tensor] = {key: f.get_tensor(key) for key in f.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError, ValueError, RecursionError) as error:
        raise UserError(f"{file}: damaged or not safetensors ({error}); train or copy it again") from error
    try:
        if not isinstance(header, dict) or header.get("net") != name:
            raise RuntimeError(f"its header names {header}")
        width = header.get("width", PNET_WIDTH)
        if not isinstance(width, int) or not 1 <= width <= MAX_PNET_WIDTH:
            raise RuntimeError(f"its header has the width {width}")
        net = build_net(name, width)
        net.load_state_dict(tensors)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip().rstrip(".")  # the first line names no tensor
        raise UserError(f"{file}: holds no {name} of this version ({reason}); train or copy it again") from error
    for key, tensor in tensors.items():
        if not torch.isfinite(tensor).all():
            raise UserError(f"{file}: its weights are not finite numbers ({key}); train or copy it again")
    return net.eval()


def run_facts(folder: Path | str) -> dict[str, Any]:
    """Return the recipe of a run, the fingerprint of the training photos, and the dataset's name or the sources.

    Raises:
        UserError: config.json is missing or damaged.
    """
    file = Path(folder) / "config.json"
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
        named: dict[str, Any] = {"sources": dict(record["sources"])} if "sources" in record else {}
        if "dataset" in record:  # of one dataset; earlier versions did not record its name
            named["dataset"] = str(record["dataset"])
        return {"recipe": dict(record["recipe"]), "data": str(record["data"]), **named}
    except FileNotFoundError as error:
        raise UserError(f"{file}: not found; name a run of stage1_faces.finetune") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{file}: damaged ({error}); train the run again") from error
