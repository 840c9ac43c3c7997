"""The front that speaks gRPC, on the C core of grpcio; it alone knows that library on the server's side."""
