"""The command pipeline.batch: millions of photos, on one machine or a Ray cluster."""
