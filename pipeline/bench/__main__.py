"""Command: time the pipeline and other detectors, in one run."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.bench.command:main")
