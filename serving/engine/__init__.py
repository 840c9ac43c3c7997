"""Answers requests: scheduling, admission, batches; it knows no transport."""
