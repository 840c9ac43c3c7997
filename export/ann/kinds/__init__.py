"""One module for each kind of index; see `export.ann.index_kind`."""
