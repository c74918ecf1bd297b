"""Fine-tunes the cascade on annotated faces."""
