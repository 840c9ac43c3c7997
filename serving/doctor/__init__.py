"""Checks whether a machine and its settings are fit for Twinspire: `make doctor`, `python -m serving doctor`.

It runs before `make setup` too, so importing it takes the standard library alone; each check imports what it
needs. `machine.py` has the checks of the machine, `settings.py` those of the service's files and addresses.
"""
