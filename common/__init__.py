"""Boxes, pictures, annotations, files and the command line, for all packages; imports no other package.

Importing it turns off ONNX Runtime's telemetry, so that no command or library call contacts anyone.
"""

import os

# ONNX Runtime's official builds send usage data to their maker, unless this is set before ONNX Runtime is loaded
# (Privacy.md in its package).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
