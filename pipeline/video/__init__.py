"""Videos and cameras: frames, tracks, events, annotated videos."""
