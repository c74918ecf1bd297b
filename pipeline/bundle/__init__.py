"""A bundle's files: the command that shows what they hold, and their numbers in float16, float32 or INT8."""
