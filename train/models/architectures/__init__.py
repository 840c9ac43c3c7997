"""One module for each `[tower] kind`, of that name; `architecture_of` in `tower_factory.py` imports it."""
