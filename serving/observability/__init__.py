"""Metrics, the request log and traces of the service."""
