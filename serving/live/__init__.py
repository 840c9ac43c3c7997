"""Live items: a store of what was written, what bundles derive from it, and how a search sees it."""
