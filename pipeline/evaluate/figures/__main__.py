"""Command: write the documentation's figures from results."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.evaluate.figures.command:main")
