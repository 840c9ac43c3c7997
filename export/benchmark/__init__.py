"""How fast a bundle is on this machine: `python -m twinspire.export bench`, and the latency in a manifest.

command         measures the parts, and logs the result
parts           towers, retriever; each adds its figures and returns what else is reported
figures         names, units and intervals; `estimate` computes these, `report` shows them on the terminal
processes       isolated_process measures bundles in processes of the service
"""

LIBRARIES = ("torch", "onnxruntime", "numpy", "hnswlib")  # whose versions are reported
BENCH_PARTS = ("towers", "retriever")  # of `python -m twinspire.export bench`
