"""A tutorial, notebooks, and what `make docs` builds a site from."""
