"""Scores trained classifiers, and compares them."""
