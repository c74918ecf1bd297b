"""Stage 1: finds faces in images. Knows nothing of masks."""
