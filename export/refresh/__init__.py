"""A new bundle of a released one, without training: its towers, and the catalogue as it stands.

    python -m twinspire.export refresh --config train/configs/pydocs.toml

refresh.py     all steps in order, with what makes them resumable
work.py        what a refresh that is under way keeps on disk
sources.py     the changes of the store of live items, and a table of items
merge.py       champion's items, table and changes as one catalogue; what must be encoded
table.py       the command `catalogue`: items and changes as a table that training reads
build.py       vectors, index, reports and manifest of the new bundle
quality.py     the test split on the new catalogue
"""
