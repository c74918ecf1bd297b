"""The command pipeline.bench: speed of the pipeline and other detectors, in one run."""
