"""From a query to its answer, without a server.

`query.py` and `answer.py` are the records. `encoder.py` makes vectors of queries. `vector_index.py` opens an
index, which finds rows: exactly (with `int8_scan.py`), in a graph (`hnsw_index.py`, `hnsw_file.py`), or on
another server (`milvus_*.py`, `remote_search.py`). `hybrid_search.py` adds BM25, and `interest_search.py`
searches for queries of several vectors. `catalogue.py` and `shared_catalogue.py` hold the items.
`retriever.py` connects them, and `response_bytes.py` makes the bytes of an answer.
"""
