"""Finds annotated faces whose label, or whose box, models contradict."""
