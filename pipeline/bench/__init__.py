"""The command pipeline.bench: speed, side by side in one run."""
