"""Command: score detectors on annotated photos."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.evaluate.command:main")
