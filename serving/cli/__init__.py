"""The commands of `python -m twinspire.serving`: their arguments, what they do, and what they print."""
