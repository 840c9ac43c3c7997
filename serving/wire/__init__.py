"""Conversion between protobuf messages and values, and the bounds of requests."""
