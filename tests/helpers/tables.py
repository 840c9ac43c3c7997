"""Tables that tests have to show, printed when all of them are done."""

TABLES: dict[str, list[str]] = {}


def add(title: str, line: str) -> None:
    TABLES.setdefault(title, []).append(line)
