"""What one machine holds: `python -m export scale` measures generated catalogues of growing size.

`measuring` measures one size; `extrapolation` fits the results; `report` writes page, plot and tables.
"""
