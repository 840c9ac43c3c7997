"""The store of live items: SQL, what may be written, and the feed of changes."""
