"""Command: make a bundle from trained runs."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.training.packing.command:main")
