"""Command: find the faces in photos, folders, videos and cameras."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.detect.command:main")
