"""Command: put a real server under load, or send malformed requests to it."""

from common.launcher import start

if __name__ == "__main__":
    start("tests.load.command:main")
