"""Filters: conditions on fields of items, and the items that pass.

`expression.py` is the typed tree, which clients build; `text.py` reads it from texts such as
`price < 50`; `columns.py` holds the values of the items and says which of them pass; `compiled.py` keeps
filters that have been evaluated, and the rows that pass; `plan.py` names the ways to search
among these rows, of which `segments/neighbours.py` chooses one. Clients need the first two alone, and no
library of bitmaps.
"""
