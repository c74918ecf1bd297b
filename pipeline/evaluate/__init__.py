"""The command pipeline.evaluate: scores detectors end to end."""
