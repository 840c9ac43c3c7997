"""The gRPC services: `retrieval.v1.Retrieval`, `retrieval.v1.Catalogue` and `retrieval.v1.Events`."""
