"""Command pipeline.evaluate.figures: every figure that the documentation shows, from results as they were written."""
