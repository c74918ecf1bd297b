"""Detects in a photo that comes with a dependency."""
