"""Command: load a real server, or send it malformed requests."""

from common.launcher import start

if __name__ == "__main__":
    start("tests.load.command:main")
