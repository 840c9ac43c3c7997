"""Data sources, one module for each `[data] kind`; `README.md` of this folder shows how to add one."""
