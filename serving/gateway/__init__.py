"""The service as HTTP and JSON: Retrieval and Catalogue for browsers and curl, OpenAPI, and the playground.

    python -m twinspire.serving gateway --address 127.0.0.1:50051 --port 8080

The gateway is a gRPC client of the service, and may run on another machine. It needs starlette and uvicorn
(`pip install '.[http]'`); nothing else in `serving` imports it but the command line and the benchmark.
"""
