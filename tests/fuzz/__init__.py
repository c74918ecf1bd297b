"""Fuzzing of all readers of untrusted input."""
