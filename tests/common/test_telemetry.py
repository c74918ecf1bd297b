"""ONNX Runtime's telemetry is off in every process of ours, before ONNX Runtime is loaded."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

VARIABLE = "ORT_DISABLE_TELEMETRY"
ROOT = Path(__file__).parents[2]
DETECT = (
    "from pipeline import Predictor; import numpy as np; Predictor.default().detect(np.zeros((64, 64, 3), np.uint8))"
)


def run(code: str, home: Path, value: str | None = None) -> str:
    """Run Python code from the project's root with an empty home folder; return what it prints."""
    environment = {key: v for key, v in os.environ.items() if key not in (VARIABLE, "XDG_CACHE_HOME")}
    environment |= {"HOME": str(home), "PYTHONPATH": str(ROOT)} | ({} if value is None else {VARIABLE: value})
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("package", ["common", "pipeline", "stage1_faces"])
def test_each_package_turns_it_off_when_it_is_imported(package: str, tmp_path: Path) -> None:
    code = f"import os, sys, {package}; print(os.environ['{VARIABLE}'], 'onnxruntime' in sys.modules)"
    assert run(code, tmp_path).split() == ["1", "False"]


def test_a_users_own_choice_stays(tmp_path: Path) -> None:
    assert run(f"import os, common; print(os.environ['{VARIABLE}'])", tmp_path, "0").strip() == "0"


def test_detection_leaves_no_device_id(tmp_path: Path) -> None:
    run(DETECT, tmp_path)
    assert not list(tmp_path.rglob("*onnxruntime*")) and not list(tmp_path.rglob("Microsoft"))
