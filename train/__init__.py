"""From raw rows to a tracked run: data sets, towers, losses, metrics, baselines, and the loop."""
