"""The gRPC services: `retrieval.v1.Retrieval`, `retrieval.v1.Catalogue`, and the Open Inference Protocol."""
