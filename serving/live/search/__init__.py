"""How a bundle's searches see live items: the bundle with its live items, and waits for a write."""
