"""Devices: a GPU is used or refused, never silently replaced by the CPU."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime
import pytest

from common.errors import UserError
from pipeline.inference.bundle import Bundle
from pipeline.inference.device import check_running, providers

CPU_ONLY, BOTH = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]


def test_the_cpu_is_always_available() -> None:
    assert providers("cpu") == CPU_ONLY


def test_a_runtime_without_cuda_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: CPU_ONLY)
    with pytest.raises(UserError, match=r"runs on the CPU only; .*pip install onnxruntime-gpu"):
        providers("cuda")
    with pytest.raises(UserError, match="runs on the CPU only"):
        Bundle.load().graph("classifier", device="cuda")


def test_cuda_comes_first_and_the_cpu_is_the_fallback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: BOTH)
    (name, _), rest = providers("cuda")
    assert [name, rest] == BOTH


def test_a_session_that_fell_back_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def session(running: list[str]) -> Any:
        return SimpleNamespace(get_providers=lambda: running)

    check_running(session(BOTH), "cuda")
    check_running(session(CPU_ONLY), "cpu")
    with pytest.raises(UserError, match="no usable GPU; check the driver"):
        check_running(session(CPU_ONLY), "cuda")


@pytest.mark.skipif("CUDAExecutionProvider" not in onnxruntime.get_available_providers(), reason="needs an NVIDIA GPU")
def test_the_gpu_agrees_with_the_cpu() -> None:
    bundle = Bundle.load()
    size = bundle.meta.input_size
    pixels = np.random.default_rng(0).normal(size=(3, 3, size, size)).astype(np.float32)
    for on_cpu, on_gpu in zip(
        bundle.graph("classifier")(pixels), bundle.graph("classifier", device="cuda")(pixels), strict=True
    ):
        np.testing.assert_allclose(on_gpu, on_cpu, atol=1e-3)
