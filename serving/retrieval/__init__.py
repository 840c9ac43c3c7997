"""From a query to its answer, without a server.

`query.py` and `answer.py` are the records, `encoder.py` makes vectors, `vector_index.py` opens an index that
finds rows (`hnsw_index.py`, `hnsw_file.py`), `catalogue.py` and `shared_catalogue.py` hold the items,
`retriever.py` connects them, and `response_bytes.py` makes the bytes of an answer.
"""
