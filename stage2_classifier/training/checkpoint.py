"""Trained weights as safetensors with a JSON header, and the full state from which a broken run resumes."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from common.errors import UserError
from common.files import write_bytes
from common.training import state_file
from stage2_classifier.heads import Heads
from stage2_classifier.models import build_model, check_finite, check_input_size, mismatched_tensors

HEADER = "face_mask_classifier"
# The present name of each header field that earlier versions wrote under another name.
_RENAMED_FIELDS = {"judges": "has_objectness", "boxes": "has_box"}
START_AGAIN = "use --overwrite to start again"
MIN_INPUT, MAX_INPUT = 8, 1024  # pixels per side


@dataclass(frozen=True)
class ModelMeta:
    """The header of a classifier's weights: what is needed to build the network and its input.

    Raises:
        ValueError: a value does not fit.
    """

    model: str  # name, as models.build_model takes it
    class_names: tuple[str, ...]  # the classes in their fixed order
    input_size: int  # side of the square input in pixels
    mean: tuple[float, float, float]  # mean per channel of pixels scaled to 0..1
    std: tuple[float, float, float]  # standard deviation per channel of pixels scaled to 0..1
    margin: float  # context of the training crops on each side, as a share of the box's longer side
    dropout: float  # dropout before the last layer
    experiment: str  # name of the run
    epoch: int  # epoch of the weights, from 1
    metrics: dict[str, float] = field(default_factory=dict)  # validation scores at that epoch
    has_objectness: bool = False  # as Heads.has_objectness
    has_box: bool = False  # as Heads.has_box
    pretrained: dict[str, str] = field(default_factory=dict)  # where its first weights are from, as pretrained_origin

    def __post_init__(self) -> None:
        if not isinstance(self.model, str) or not all(isinstance(name, str) for name in self.class_names):
            raise ValueError("model and class names must be text")
        if not self.class_names:
            raise ValueError("no class names")
        if not isinstance(self.input_size, int) or not MIN_INPUT <= self.input_size <= MAX_INPUT:
            raise ValueError(f"input size {self.input_size!r} is not within {MIN_INPUT} to {MAX_INPUT} pixels")
        numbers = (*self.mean, *self.std, self.margin, self.dropout)
        finite = all(isinstance(v, int | float) and math.isfinite(v) for v in numbers)
        if len(self.mean) != 3 or len(self.std) != 3 or not finite:
            raise ValueError("mean and std must be three numbers each, margin and dropout one")
        if not 0 <= self.dropout <= 1:
            raise ValueError(f"dropout {self.dropout} is not within 0 to 1")

    @property
    def heads(self) -> Heads:
        """Return the outputs of the network."""
        return Heads(len(self.class_names), self.has_objectness, self.has_box)


def save_model(path: Path | str, state_dict: Mapping[str, Tensor], meta: ModelMeta) -> None:
    """Write weights and header into one .safetensors file, atomically."""
    # safetensors refuses tensors that share memory; clones do not.
    tensors = {n: t.detach().cpu().clone(memory_format=torch.contiguous_format) for n, t in state_dict.items()}
    header = {name: value for name, value in asdict(meta).items() if name != "pretrained" or value}
    write_bytes(path, save(tensors, {HEADER: json.dumps(header)}))


def load_model(path: Path | str) -> tuple[nn.Module, ModelMeta]:
    """Return the classifier in eval mode on the CPU, and the header.

    Raises:
        UserError: the file is missing, damaged or not one of ours.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file; train a model with `python -m stage2_classifier.train`")
    try:
        with safe_open(path, framework="pt") as f:
            header = (f.metadata() or {}).get(HEADER)
            tensors = {name: f.get_tensor(name) for name in f.keys()}  # noqa: SIM118  # not a dict
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(f"{path}: damaged or not safetensors ({error}); train or copy it again") from error
    if header is None:
        raise UserError(f"{path}: has no {HEADER} header; use the best.safetensors of a run")
    meta = _read_header(path, header)
    try:
        model = build_model(meta.model, meta.heads.outputs, dropout=meta.dropout)
    except UserError as error:
        raise UserError(f"{path}: its header is malformed ({error}); train or copy it again") from error
    try:
        check_input_size(model, meta.input_size)
    except UserError as error:  # its advice is for users who chose the size; here the header did
        what = f"its header says {meta.input_size} pixels, which {meta.model} does not take"
        raise UserError(f"{path}: {what}; train or copy it again") from error
    if wrong := mismatched_tensors(model.state_dict(), tensors):
        what = f"its weights do not fit {meta.model} with {meta.heads.outputs} outputs ({wrong[0]} differs)"
        raise UserError(f"{path}: {what}; train or copy it again")
    check_finite(path, tensors)
    model.load_state_dict(tensors)
    return model.eval(), meta


def _read_header(path: Path, header: str) -> ModelMeta:
    """Parse the JSON header, also of earlier versions; raise UserError with the file when it is malformed."""
    try:
        record = {_RENAMED_FIELDS.get(name, name): value for name, value in json.loads(header).items()}
        if unknown := sorted(record.keys() - {field.name for field in fields(ModelMeta)}):
            raise UserError(f"{path}: its header has the unknown field {unknown[0]!r}; update the program")
        for name in ("class_names", "mean", "std"):
            if not isinstance(record[name], list):
                raise ValueError(f"{name} is not a list")
            record[name] = tuple(record[name])
        return ModelMeta(**record)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its header is malformed ({error}); train or copy it again") from error


def load_state(path: Path | str) -> dict[str, Any]:
    """Return the state of a run, which has its history, with tensors on the CPU.

    Raises:
        UserError: the file is damaged or of another version.
    """
    state = state_file.load_state(Path(path), START_AGAIN)
    if not isinstance(state.get("history"), list):
        raise UserError(f"{path}: of another version of this program; {START_AGAIN}")
    return state
