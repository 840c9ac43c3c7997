"""Vector databases that export writes to and serving asks."""
