"""Vector indexes: exact search, HNSW graphs, and collections of a Milvus server."""
