"""Command pipeline.baseline: one-stage detectors of torchvision on the same photos."""
