"""Command pipeline.evaluate.videos: score the events of videos made from annotated photos, and choose constants."""
