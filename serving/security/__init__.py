"""TLS, bearer tokens, roles and rate limits."""
