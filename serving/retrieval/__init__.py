"""From a query to its answer, without a server.

`query.py` and `answer.py` are the records. `encoder.py` makes vectors of queries, which `serving/segments/`
searches. `hybrid_search.py` adds lexical scores, `retriever.py` connects them, and `response_bytes.py` makes
the bytes of an answer.
"""
