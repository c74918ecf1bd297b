"""Command: show crops before and after augmentation."""

from common.launcher import start

if __name__ == "__main__":
    start("stage2_classifier.reports.preview_command:main", package="torch")
