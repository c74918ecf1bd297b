"""Command: serve the web page and the HTTP API."""

from common.launcher import start

if __name__ == "__main__":
    start("pipeline.serve.command:main")
