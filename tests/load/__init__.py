"""Loads a real server, and tests what does."""
