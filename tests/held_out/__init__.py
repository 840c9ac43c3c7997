"""Data sets on which no rule, default or fix was chosen: `python -m tests.held_out NAME ...`.

data     packages (downloads), senses, changes, lectures (one module and one TOML file for each set)
figures  report (trainings with several seeds, the table)
"""
