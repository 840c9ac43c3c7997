"""TLS, bearer tokens and roles."""
