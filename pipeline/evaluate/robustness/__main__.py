"""Command: score a bundle on changed photos."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.evaluate.robustness.command:main")
