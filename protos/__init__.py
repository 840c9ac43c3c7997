"""What the stages agree on: the wire, the bundle on disk, features, errors. Imports no other stage."""

__version__ = "0.1.0"
