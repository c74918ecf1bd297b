"""Command: split annotated photos into train, val and test."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.data.split:main")
