"""Bearer tokens, their roles, and the role that each method requires.

    [[token]]
    name = "search-frontend"
    role = "reader"
    sha256 = "..."
    expires = 2027-01-01        # optional: refused from then on, UTC

    [methods]                   # optional: overrides METHODS
    "retrieval.v1.Retrieval/Encode" = "writer"

The file holds the SHA-256 of each token, not the token. A slow, salted hash is for passwords, which people
choose; a token of 256 random bits can be found neither by guessing nor in a precomputed table.
"""

import hashlib
import hmac
import math
import re
import secrets
import time
from dataclasses import dataclass, field
from datetime import UTC, date, datetime
from enum import IntEnum
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from twinspire.protos import catalogue_pb2, events_pb2, retrieval_pb2, toml_config
from twinspire.protos.errors import InvalidInput, NotAuthenticated
from twinspire.serving.security.file_watch import Reloaded

RELOAD_SECONDS = 1.0  # between two checks of the file: a new or revoked token takes effect after that
TOKEN_BYTES = 32
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")  # fit for a log line and for a metric's label
SHA256 = re.compile(r"[0-9a-f]{64}")


class Role(IntEnum):
    """What a caller may do; each role includes those below it."""

    ANYONE = 0
    READER = 1
    RECORDER = 2
    WRITER = 3
    ADMIN = 4


RoleName = Literal["reader", "recorder", "writer", "admin"]  # that a token may have

_SERVICES = (
    (events_pb2.DESCRIPTOR.services_by_name["Events"], Role.RECORDER),
    (catalogue_pb2.DESCRIPTOR.services_by_name["Catalogue"], Role.WRITER),
    (retrieval_pb2.DESCRIPTOR.services_by_name["Retrieval"], Role.READER),
)
# A method that is not in the table requires the role ADMIN; a new one of `_SERVICES` has the service's role.
METHODS = {
    "grpc.health.v1.Health/Check": Role.ANYONE,
    "grpc.health.v1.Health/List": Role.ANYONE,
    "grpc.health.v1.Health/Watch": Role.ANYONE,
    "grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Role.READER,
    "grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.READER,
    **{f"{each.full_name}/{method.name}": role for each, role in _SERVICES for method in each.methods},
}


@dataclass(frozen=True)
class TokenEntry:
    """One `[[token]]` of the file."""

    name: str
    role: RoleName
    sha256: str
    expires: Any = None  # a TOML date, or a date and time with its offset

    def __post_init__(self) -> None:
        if not NAME.fullmatch(self.name):
            raise ValueError(f"name: expected 1 to 64 of letters, digits, '.', '_', '-', got {self.name!r}")
        if not SHA256.fullmatch(self.sha256):
            # The value is not shown, because it may be a token that was put there by mistake.
            raise ValueError("sha256: expected 64 hexadecimal digits in lower case")
        _ = self.until

    @cached_property
    def rights(self) -> Role:
        """What its user may do."""
        return Role[self.role.upper()]

    @cached_property
    def digest(self) -> bytes:
        """SHA-256 of the token, 32 bytes."""
        return bytes.fromhex(self.sha256)

    @cached_property
    def until(self) -> float:
        """The first moment at which the token is not valid, in Unix seconds; infinite without `expires`.

        Raises:
            ValueError: `expires` is neither a date nor a date and time with its offset.
        """
        if self.expires is None:
            return math.inf
        if isinstance(self.expires, datetime):
            if self.expires.tzinfo is None:
                raise ValueError("expires: expected an offset, such as Z, after the time of day")
            return self.expires.timestamp()
        if not isinstance(self.expires, date):
            raise ValueError(f"expires: expected a date such as 2027-01-01, got {self.expires!r}")
        return datetime(*self.expires.timetuple()[:3], tzinfo=UTC).timestamp()


@dataclass(frozen=True)
class TokenTable:
    """A token file. With `token = []` no token is valid."""

    token: tuple[TokenEntry, ...]
    methods: dict[str, Literal["anyone", RoleName]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for key in ("name", "sha256"):
            values = [getattr(entry, key) for entry in self.token]
            for n, value in enumerate(values):
                if value in values[:n]:
                    raise ValueError(f"token[{n}].{key}: the same as that of token[{values.index(value)}]")
        for method in self.methods:
            if method not in METHODS:
                raise ValueError(f"methods.{method}: unknown method; known: {', '.join(METHODS)}")

    @cached_property
    def roles(self) -> dict[str, Role]:
        """Path of a method -> the role that it requires."""
        given = {method: Role[name.upper()] for method, name in self.methods.items()}
        return {f"/{method}": role for method, role in {**METHODS, **given}.items()}


class TokenFile(Reloaded[TokenTable]):
    """The tokens of a file, which is read again when it has changed.

    A file that has become invalid or was deleted revokes no token: the tokens read before stay valid, and an
    error is logged. To revoke all tokens, write `token = []`.

    Args:
        period: seconds between two checks of the file.

    Raises:
        ConfigError: the file is invalid; the text names the key and what was expected.
    """

    def __init__(self, path: Path, period: float = RELOAD_SECONDS) -> None:
        kept = "the tokens read before still count"
        super().__init__([path], lambda: toml_config.read(path, TokenTable), kept, period)

    def role(self, method: str) -> Role:
        """The role that a method requires.

        Args:
            method: as gRPC names it, `/retrieval.v1.Retrieval/Search`.
        """
        self.refresh()
        return self.content.roles.get(method, Role.ADMIN)

    def identify(self, token: str) -> TokenEntry:
        """The entry of a token.

        Every entry is compared, each in constant time, so that the duration does not reveal which entry
        matches or almost matches.

        Raises:
            NotAuthenticated: the token is unknown, or has expired.
        """
        self.refresh()
        digest = hashlib.sha256(token.encode()).digest()
        found = None
        for known in self.content.token:
            if hmac.compare_digest(known.digest, digest):
                found = known
        if found is None:
            raise NotAuthenticated("the token is unknown to this service")
        if time.time() >= found.until:
            raise NotAuthenticated("the token has expired")
        return found


def new_token(name: str, role: str) -> tuple[str, str]:
    """A new token, and its entry for the token file.

    Args:
        name: of its user, for logs and rate limits.
        role: `reader`, `recorder`, `writer` or `admin`.

    Returns:
        The token, which is not stored, and the TOML to append to the token file.

    Raises:
        InvalidInput: the name or the role is invalid.
    """
    token = secrets.token_urlsafe(TOKEN_BYTES)
    table = {"name": name, "role": role, "sha256": hashlib.sha256(token.encode()).hexdigest()}
    try:
        toml_config.parse(table, TokenEntry)
    except ValueError as error:
        raise InvalidInput(*str(error).split(": ", 1)) from None
    lines = [f'{key} = "{value}"' for key, value in table.items()]
    return token, "\n".join(["[[token]]", *lines]) + "\n"
