"""States are read as they were written; damaged ones are named, with the caller's advice."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from common.errors import UserError
from common.training import state_file
from common.training.state_file import load_state, save_state


def test_a_state_is_read_as_written(tmp_path: Path) -> None:
    file = tmp_path / "net.state"
    save_state(file, {"epoch": 3, "rates": [0.1, 0.2], "model": {"w": torch.arange(4.0)}})
    state = load_state(file, "remove it")
    assert state["epoch"] == 3 and state["rates"] == [0.1, 0.2]
    assert torch.equal(state["model"]["w"], torch.arange(4.0))
    assert [path.name for path in tmp_path.iterdir()] == ["net.state"]


def test_a_damaged_state_is_named_with_the_advice(tmp_path: Path) -> None:
    file = tmp_path / "net.state"
    save_state(file, {"model": torch.zeros(1000)})
    file.write_bytes(file.read_bytes()[:300])
    with pytest.raises(UserError) as raised:
        load_state(file, "remove it to start again")
    assert str(raised.value) == f"{file}: damaged; remove it to start again"


@pytest.mark.parametrize("content", [{"format": state_file.STATE_FORMAT + 1}, {}, [1, 2]])
def test_a_state_of_another_version_is_named(tmp_path: Path, content: object) -> None:
    file = tmp_path / "net.state"
    torch.save(content, file)
    with pytest.raises(UserError) as raised:
        load_state(file, "remove it")
    assert str(raised.value) == f"{file}: of another version of this program; remove it"
