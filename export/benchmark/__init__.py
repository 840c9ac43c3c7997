"""How fast a bundle is on this machine: `python -m export bench` and `python -m export scale`.

command         measures the parts, and logs the result
parts           towers, retriever, index; each adds its figures and returns what else is reported
figures         names, units and intervals; `comparison` with budgets and with the previous bench
report          the result as JSON, page, plots and terminal tables; `report_writer` is shared with `scale`
others          isolated_process (bundles in other processes), scale (catalogues of growing size)
"""

LIBRARIES = ("torch", "onnxruntime", "numpy", "hnswlib")  # whose versions are reported
BENCH_PARTS = ("towers", "retriever", "index")  # of `python -m export bench`
