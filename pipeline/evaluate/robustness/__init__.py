"""Command pipeline.evaluate.robustness: score a bundle on photos that are darkened, coloured, blurred and so on."""
