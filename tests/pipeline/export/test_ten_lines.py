"""The ten lines of Python in README and in the Hub's card run, and need nothing but ONNX Runtime, numpy and pillow."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from pipeline.detect.demo.command import portrait, tiled_photo
from pipeline.export.command import main
from pipeline.inference.predictor import Predictor

ROOT = Path(__file__).resolve().parents[3]
CHECK = """
import sys
assert not {"cv2", "onnx", "onnxscript", "pipeline", "common", "torch"} & set(sys.modules)
"""


@pytest.mark.slow
@pytest.mark.parametrize("where", ["readme", "hub"])
def test_the_ten_lines(where: str, tmp_path: Path) -> None:
    option = ["--out", str(tmp_path / "mask-detector.onnx")] if where == "readme" else ["--hub", str(tmp_path)]
    assert main(option) == 0
    text = (ROOT if where == "readme" else tmp_path).joinpath("README.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    (block,) = [one for one in blocks if "onnxruntime.InferenceSession" in one]
    assert len([line for line in block.splitlines() if line]) <= 11
    predictor = Predictor.default()
    photo = tiled_photo(predictor, portrait())
    Image.fromarray(photo).save(tmp_path / "photo.jpg", quality=95)
    (tmp_path / "run.py").write_text(block + CHECK)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    command = [sys.executable, "-I", "run.py"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    shown = sorted(line.split()[0] for line in done.stdout.splitlines())
    assert shown == sorted(predictor.detect(photo).labels) and len(shown) == 3
