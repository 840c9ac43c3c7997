"""Data sources, one module for each `[data] kind`; `train/data/README.md` shows how to add one."""
