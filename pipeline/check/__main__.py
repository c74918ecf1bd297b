"""Command: show what an annotated dataset holds."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.check.command:main")
