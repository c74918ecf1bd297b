"""Command: detect in a photo that comes with a dependency, without and with drawn masks."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.detect.demo.command:main")
