"""Towers in lower precision, chosen by what they lose on validation queries.

    chosen = choose_precision(towers, data, config, folder)

tables.py   the variants of a tower: rewrites its ONNX graph, and rounds its tables in torch
choose.py   the smallest variant within a bound on the loss
"""

from twinspire.export.quantization.choose import ExportedTower, choose_precision
from twinspire.export.quantization.tables import round_tables

__all__ = ["ExportedTower", "choose_precision", "round_tables"]
