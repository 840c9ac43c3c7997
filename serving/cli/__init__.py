"""The commands of `python -m serving`: their arguments, what they do, and what they print."""
