"""One module for each `[tower] kind`, found by `train/models/tower_factory.py`."""
