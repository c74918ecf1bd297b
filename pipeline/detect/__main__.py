"""Starts the command pipeline.detect."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.detect.command:main")
