"""Command: time the pipeline against others, in one run."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.bench.command:main")
