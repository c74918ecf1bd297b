"""Load test and fuzz test of a real server, and their tests."""
