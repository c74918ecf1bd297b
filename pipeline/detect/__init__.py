"""The command pipeline.detect: photos to pictures, table, JSON, CSV."""
