"""The command pipeline.detect: detects faces in photos and writes pictures, a table, JSON and CSV."""
