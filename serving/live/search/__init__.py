"""Opens bundles with their live items, and lets calls wait until a write is searched."""
