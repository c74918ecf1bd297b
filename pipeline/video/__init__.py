"""Videos and cameras: reading, tracking, events, annotated videos."""
