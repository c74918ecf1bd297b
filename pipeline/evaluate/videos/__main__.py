"""Command: score the events of videos that are made from annotated photos."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.evaluate.videos.command:main")
