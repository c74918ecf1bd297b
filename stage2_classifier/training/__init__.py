"""Trains one classifier."""
