"""Face crops as training data."""
