"""Command: run the whole course, shortened, and write docs/tour.md."""

from common.launcher import start

if __name__ == "__main__":
    start("docs.tour.command:main")
