"""Command: detect faces in millions of photos and write a Parquet table."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.batch.command:main")
