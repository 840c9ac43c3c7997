"""The two gRPC services: `retrieval.v1.Retrieval` and the Open Inference Protocol (KServe V2)."""
