"""The state from which a broken training resumes: one file of tensors, numbers, strings, lists and dictionaries."""

from __future__ import annotations

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from common.errors import UserError
from common.files import write_bytes

STATE_FORMAT = 1


def save_state(file: Path, state: Mapping[str, Any]) -> None:
    """Replace a state file in one step."""
    write_bytes(file, state_bytes(state))


def state_bytes(state: Mapping[str, Any]) -> bytes:
    """Return what a state file holds."""
    buffer = io.BytesIO()
    torch.save({"format": STATE_FORMAT, **state}, buffer)
    return buffer.getvalue()


def load_state(file: Path, advice: str) -> dict[str, Any]:
    """Return what `save_state` wrote, with tensors on the CPU and without running code from the file.

    Args:
        file: the state file.
        advice: what to do about an unusable file, for the error's line.

    Raises:
        OSError: the file cannot be read.
        UserError: the file is damaged or of another format.
    """
    data = file.read_bytes()
    try:
        state: Any = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # damaged files raise many kinds: UnpicklingError, RuntimeError, EOFError
        raise UserError(f"{file}: damaged; {advice}") from error
    if not isinstance(state, dict) or state.get("format") != STATE_FORMAT:
        raise UserError(f"{file}: of another version of this program; {advice}")
    return state
