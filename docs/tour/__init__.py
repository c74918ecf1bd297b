"""Writes docs/tour.md: the whole course, run once, with pictures."""
