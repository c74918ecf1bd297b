"""Command: fine-tune the face detector on annotated photos."""

from common.launcher import start

if __name__ == "__main__":
    start("stage1_faces.training.finetune:main", package="torch")
