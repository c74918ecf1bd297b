"""The augmentation policy in three libraries side by side, and the transforms that use it."""
