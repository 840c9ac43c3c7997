"""An attack of three minutes on a real service, beside well-behaved clients: `make test-hostile`.

`__main__.py` is the command; `connection.py` holds what the attackers share, `attacks.py` and `idle.py` the
attackers, `good.py` the well-behaved clients, `run.py` one run from start to figures, `report.py` the
bounds and the table.
"""
