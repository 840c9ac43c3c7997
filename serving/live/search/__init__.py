"""How a bundle's searches see live items: the overlay, its graphs, and waits for a write."""
