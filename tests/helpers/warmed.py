"""What a fork of `tests.helpers.warm` needs beside imported packages: torch's operators, read once."""

from tests.helpers.operators import read_operators_now

read_operators_now()
