"""Command: detect in millions of photos, into a Parquet table."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.batch.command:main")
