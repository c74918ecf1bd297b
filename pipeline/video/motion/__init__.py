"""What happens in frames that the detector does not look at."""
