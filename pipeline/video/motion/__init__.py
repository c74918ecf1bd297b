"""Frames without a run of the detector: which they are, and how boxes move along with the picture."""
