"""Command: cut every annotated face out of its photo."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.data.build_crops:main")
