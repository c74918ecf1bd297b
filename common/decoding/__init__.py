"""Picture files that Pillow alone does not read in full."""
