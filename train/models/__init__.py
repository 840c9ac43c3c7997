"""The query tower and the item tower: encoders, heads, architectures, initialization, and cold start."""
