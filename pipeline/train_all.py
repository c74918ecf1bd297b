"""Command: train both stages, from annotated photos to a bundle with its report."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.training.train_all:main")
