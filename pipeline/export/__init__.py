"""Exports a bundle as one ONNX graph."""
