"""The commands of `python -m tests.load`: their options, what they do, and what they print."""
