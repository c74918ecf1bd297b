"""Network cameras: their addresses, and those that show one picture at a time."""
