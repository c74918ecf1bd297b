"""Joins the two stages: everything that a user runs."""
