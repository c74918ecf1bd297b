"""Trains, calibrates and packs the whole detector."""
