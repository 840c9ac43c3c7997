"""Live items: a store of what was written, what bundles encode of it, and how a search sees it."""
