"""What the stages agree on: the wire, the disk, the records, the errors.

Read in this order: `retrieval.proto` (the wire), `bundle.py` (the disk), `features.py` (what a raw
record becomes before it reaches a tower), `config.py` (how TOML becomes a checked configuration),
`errors.py` (everything that can be refused). Nothing here imports another stage.
"""
