"""How raw values of features become arrays; `features.py` calls these modules."""
