"""Command: train one classifier on face crops."""

from common.launcher import start

if __name__ == "__main__":
    start("stage2_classifier.training.command:main_as_process", package="torch")
