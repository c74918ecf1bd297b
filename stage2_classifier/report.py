"""Command: score trained classifiers on crops, and compare them."""

from common.launcher import start

if __name__ == "__main__":
    start("stage2_classifier.reports.report:main", package="torch")
