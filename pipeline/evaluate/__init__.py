"""Command pipeline.evaluate: score detectors end to end."""
