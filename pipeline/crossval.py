"""Command: train and score both stages once per fold."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.training.crossval:main")
