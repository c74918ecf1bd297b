"""Command: time pipeline.batch, one worker against several, processes against Ray."""

from common.launcher import start

if __name__ == "__main__":
    start("docs.scale.batch_scaling:main")
