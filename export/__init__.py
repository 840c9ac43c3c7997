"""From a run to a released bundle: graphs, parity, latency, vectors, index, assembly, registry."""
