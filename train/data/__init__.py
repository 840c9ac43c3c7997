"""From raw rows to batches: sources, data sets, splits, and records in memory."""
