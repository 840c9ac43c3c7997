"""Towers and item vectors in lower precision: variants are made, measured beside float32, and chosen.

    sample = draw_sample(data, {"query": (inputs, encoder), "item": ...}, config, console)
    query = choose_tower(exported, sample, config, export, folder, console)
    stored = choose_vectors(sample, query.vectors, item.vectors, has_padding_dim, config)

variants.py   the variants of a tower; tables.py rewrites the ONNX graph
measure.py    quality, size and latency of each variant
selection.py  the fastest within a bound on the loss; choose.py applies it to towers and vectors
report.py     terminal tables and plot
"""

from export.quantization.choose import (
    ChosenVariant,
    ExportedTower,
    StoredVectors,
    choose_tower,
    choose_vectors,
)
from export.quantization.measure import SMALL_CATALOGUE, QualitySample, draw_sample
from export.quantization.report import show_precision, size_latency_and_quality
from export.quantization.variants import VARIANTS, make_variants, round_tables

__all__ = [
    "SMALL_CATALOGUE",
    "VARIANTS",
    "ChosenVariant",
    "ExportedTower",
    "QualitySample",
    "StoredVectors",
    "choose_tower",
    "choose_vectors",
    "draw_sample",
    "make_variants",
    "round_tables",
    "show_precision",
    "size_latency_and_quality",
]
