"""Command: show where a bundle comes from, and what it scored."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.bundle.command:main")
