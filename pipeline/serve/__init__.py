"""The command pipeline.serve: HTTP API and web page."""
