"""Command: train a one-stage detector of torchvision for comparison."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.baseline.command:main")
