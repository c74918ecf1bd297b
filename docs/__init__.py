"""Documentation, and the scripts that write parts of it."""
