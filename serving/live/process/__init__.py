"""The process that owns the store, and how workers talk with it."""
