"""Token files for tests, and the metadata that a client sends."""

import os
from pathlib import Path

from twinspire.serving.security.tokens import new_token

Metadata = tuple[tuple[str, str], ...]


def bearer(token: str) -> Metadata:
    return (("authorization", f"Bearer {token}"),)


class Tokens:
    """A token file with a token of each role, and one that has expired."""

    def __init__(self, path: Path) -> None:
        self.path = path
        made = {name: new_token(name, name) for name in ("reader", "writer", "admin")}
        made["late"] = new_token("late", "admin")
        self.plain = {name: token for name, (token, _) in made.items()}
        self.entries = {name: entry for name, (_, entry) in made.items()}
        self.entries["late"] += "expires = 2020-01-01\n"
        self.write(*self.entries.values())

    def write(self, *parts: str) -> None:
        beside = self.path.with_suffix(".new")
        beside.write_text("\n".join(parts), "utf-8")
        os.replace(beside, self.path)

    def metadata(self, name: str) -> Metadata:
        return bearer(self.plain[name])
