"""From annotated photos to a split and a crop dataset."""
