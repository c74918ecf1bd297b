"""Command: write a bundle as one ONNX graph."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.export.command:main")
