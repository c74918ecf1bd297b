"""ONNX Runtime's packages for Node and browsers, as `make js` installs them."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

NODE_MODULES = Path(__file__).resolve().parents[2] / ".venv" / "js" / "node_modules"
NODE = shutil.which("node")
WEB_RUNTIME = NODE_MODULES / "onnxruntime-web"
needs_web_runtime = pytest.mark.skipif(not WEB_RUNTIME.is_dir(), reason="needs onnxruntime-web: make js")
needs_node = pytest.mark.skipif(
    NODE is None or not (NODE_MODULES / "onnxruntime-node").is_dir(), reason="needs Node and onnxruntime-node: make js"
)
