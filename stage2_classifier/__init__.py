"""Stage 2: names the class of a face crop. Knows nothing of detection."""
