"""How fast a bundle is on this machine: `python -m twinspire.export bench`, and the latency in a manifest.

command         measures towers, retriever and loading, and logs the result
towers          both towers in torch and as served, which the manifest has, too
figures         names of the figures, and their intervals
processes       isolated_process measures bundles in processes of the service
"""
