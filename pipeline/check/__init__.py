"""Shows what an annotated dataset holds, before anything is trained."""
