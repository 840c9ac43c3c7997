"""Vector indexes: exact search, HNSW graphs, and collections of vector databases."""
