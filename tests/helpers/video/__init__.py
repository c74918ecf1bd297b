"""Videos, cameras and tracks for tests."""
