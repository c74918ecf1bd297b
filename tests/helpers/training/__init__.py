"""Small data sets and quick trainings for tests."""
