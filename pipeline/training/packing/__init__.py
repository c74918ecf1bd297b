"""Makes a bundle: export, calibration, settings, storage."""
