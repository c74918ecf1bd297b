"""Trainings of these tests use one thread, so that they give the same weights again."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def one_thread() -> None:
    """Set torch's number of threads."""
    torch.set_num_threads(1)
