"""Checks of the configuration of a service: ports, the registry, certificates, tokens."""

import base64
import errno
import http.client
import math
import os
import socket
import sqlite3
import time
import urllib.error
import urllib.request
from contextlib import closing
from pathlib import Path
from urllib.parse import unquote, urlsplit

from protos.errors import ConfigError, TwinspireError
from serving.address import is_loopback, listen_error
from serving.doctor.finding import Finding, ok, problem, warning

DAY = 86_400.0  # seconds
EXPIRY_WARNING_DAYS = 30
SQLITE = "sqlite:///"
STORE = "mlruns/mlflow.db"
ANSWER_SECONDS = 5.0


def port(name: str, host: str, number: int, variable: str) -> Finding:
    """Whether a port is free.

    Args:
        name: of the program that is to listen there.
        host: to listen on.
        number: of the port.
        variable: of make, by which another port is chosen.
    """
    check = f"port {number}"
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM) as tried:
            tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            tried.bind((host, number))
    except PermissionError:
        return problem(
            check, f"for {name}: not allowed", f"ports below 1024 need a privilege: {variable}=..."
        )
    except (OSError, UnicodeError) as error:
        if getattr(error, "errno", None) != errno.EADDRINUSE:
            found = f"for {name}: {host}: {listen_error(error)}"
            return problem(check, found, "name an address of this machine: --host")
        todo = (
            f"right if your service runs; for another one: {variable}={number + 1 if number < 65535 else 0}"
        )
        return warning(check, f"for {name}: {os.strerror(errno.EADDRINUSE)}", todo)
    return ok(check, f"for {name}: free")


def registry(uri: str = "") -> Finding:
    """Whether MLflow's store answers; for PostgreSQL and others see `model`.

    Args:
        uri: of the store; `MLFLOW_TRACKING_URI`, or the file of a checkout, by default.
    """
    uri = uri or os.environ.get("MLFLOW_TRACKING_URI") or f"{SQLITE}{STORE}"
    shown = _without_password(uri)
    if uri.startswith(SQLITE):
        return _registry_file(Path(uri.removeprefix(SQLITE).partition("?")[0]))
    if not uri.startswith(("http://", "https://")):
        return ok("registry", f"{shown}: not tried; --model models:/NAME@champion does")
    try:
        with urllib.request.urlopen(_health_of(uri), timeout=ANSWER_SECONDS) as answer:
            status = answer.status
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "reason", None) or error
        return problem("registry", f"{shown}: {reason}", "start it, or mend MLFLOW_TRACKING_URI")
    return ok("registry", f"{shown} answers with {status}")


def _registry_file(path: Path) -> Finding:
    if not path.is_file():
        return warning("registry", f"{path}: not there yet", "`make demo`, or `make train`, makes it")
    try:
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True, timeout=1)) as database:
            names = {row[0] for row in database.execute("SELECT name FROM registered_models")}
            state = database.execute("PRAGMA quick_check(1)").fetchone()[0]
    except sqlite3.Error as error:
        return problem(
            "registry", f"{path}: {error}", "restore it from a copy, or move it away and train anew"
        )
    if state != "ok":
        return problem("registry", f"{path}: damaged: {state}", "restore it from a copy")
    if not os.access(path, os.W_OK):
        return problem("registry", f"{path}: cannot be written by this user", f"chown {os.getuid()} {path}")
    models = sorted(name for name in names if ".release-lock" not in name)
    return ok("registry", f"{path}: {', '.join(models[:5]) or 'no model'} registered")


def model(name: str) -> Finding:
    """Whether the registry has a model; asked through MLflow in a process of its own, as the service does."""
    from serving.rollout.registry_process import RegistryProcess

    try:
        with RegistryProcess() as process:
            found = process.resolve(name)
    except TwinspireError as error:
        return problem("model", str(error), "`make register promote` registers one")
    return ok("model", f"{name} is version {found.version}")


def certificates(certificate: Path | None, key: Path | None, client_ca: Path | None) -> list[Finding]:
    """Whether TLS files can be used, and the days that are left of each."""
    if certificate is None or key is None:
        return [ok("certificate", "none: the service is for this machine alone, or behind a proxy with TLS")]
    from serving.security.certificate_expiry import earliest_end
    from serving.security.tls import TlsFiles

    try:
        read = TlsFiles(certificate, key, client_ca).read()
    except ConfigError as error:
        return [problem("certificate", str(error), "name a certificate as PEM, and its key")]
    now, found = time.time(), []
    if early := [each for each in read.certificates if now < each.not_before]:
        text = f"{early[0].path}: certificate {early[0].number} is not valid yet"
        found.append(problem("certificate", text, "wait, or set the clock of this machine"))
    for path, end in earliest_end(read.certificates).items():
        days = (end - now) / DAY
        if days <= 0:
            found.append(problem("certificate", f"{path}: expired {-days:.1f} days ago", "renew it"))
        elif days <= EXPIRY_WARNING_DAYS:
            found.append(warning("certificate", f"{path}: {days:.1f} days left", "renew it"))
        else:
            found.append(ok("certificate", f"{path}: {days:.0f} days left"))
    return found


def tokens(path: Path | None, host: str, client_ca: Path | None = None) -> Finding:
    """Whether a token file can be used, and whether its tokens are valid for long.

    Args:
        path: of the file; None if callers need no token.
        host: that the service is to listen on.
        client_ca: authorities of the clients' certificates; None if callers need none.
    """
    if path is None and client_ca is not None:
        return ok("tokens", f"none: callers need a certificate that {client_ca} has signed")
    if path is None:
        if is_loopback(host):
            return ok("tokens", "none: each program of this machine may call")
        todo = (
            "`python -m serving token --name NAME` makes one; name their file with --tokens; or --client-ca"
        )
        return warning("tokens", f"none: every client that can connect to {host} may call", todo)
    from serving.security.tokens import TokenFile

    try:
        table = TokenFile(path).content.tokens
    except ConfigError as error:
        return problem("tokens", str(error), "`python -m serving token --name NAME` writes an entry")
    now = time.time()
    valid = [each for each in table if each.until > now]
    if not valid:
        todo = "`python -m serving token --name NAME` makes one"
        return problem("tokens", f"{path}: none of {len(table)} is valid", todo)
    ends = {each.name: (each.until - now) / DAY for each in valid if not math.isinf(each.until)}
    soon = [f"{name} in {days:.1f} days" for name, days in ends.items() if days <= EXPIRY_WARNING_DAYS]
    if soon:
        return warning("tokens", f"{path}: {', '.join(soon)} will expire", "make new ones in time")
    return ok("tokens", f"{path}: {len(valid)} valid, {len(table) - len(valid)} expired")


def _health_of(uri: str) -> urllib.request.Request:
    """A request of the server's health; urllib takes no user and password from the URI."""
    parts = urlsplit(uri)
    place = parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()
    request = urllib.request.Request(f"{place.rstrip('/')}/health")
    if parts.username is not None:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        request.add_header("Authorization", f"Basic {base64.b64encode(pair.encode()).decode()}")
    return request


def _without_password(uri: str) -> str:
    scheme, separator, rest = uri.partition("://")
    return f"{scheme}{separator}{rest.rpartition('@')[2]}".partition("?")[0]
