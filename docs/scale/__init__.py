"""Measures what docs/scale.md calculates with."""
