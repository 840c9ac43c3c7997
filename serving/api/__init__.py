"""The gRPC services: `retrieval.v1.Retrieval` and `retrieval.v1.Catalogue`."""
