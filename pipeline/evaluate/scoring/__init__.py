"""Score detectors on one dataset, and on several, each on its own."""
