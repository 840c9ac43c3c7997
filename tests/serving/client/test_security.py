"""Whom a client talks to, who it says it is, and what it sends beside a request."""

from dataclasses import dataclass, replace
from operator import methodcaller
from pathlib import Path
from typing import Any

import grpc
import pytest

from tests.helpers.serving.certificates import Authority
from tests.helpers.serving.refusing import Refusing, Watching, serving
from tests.serving.client.ways import WAYS
from twinspire.protos.errors import DataError, InvalidInput, Unavailable
from twinspire.serving.client import AsyncRetrievalClient, RetrievalClient, Security


@dataclass
class Signed:
    """An authority whose certificate is `ca.pem` in a folder."""

    folder: Path
    authority: Authority

    @classmethod
    def new(cls, folder: Path) -> "Signed":
        folder.mkdir()
        authority = Authority(folder.name)
        (folder / "ca.pem").write_bytes(authority.certificate)
        return cls(folder, authority)

    def client(self) -> tuple[Path, Path]:
        """A client's certificate and its key."""
        return self.authority.client("client").write(self.folder)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed.new(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Signed:
    return Signed.new(tmp_path_factory.mktemp("tls") / "theirs")


def credentials(signed: Signed, mutual: bool = False) -> grpc.ServerCredentials:
    pair = signed.authority.server()
    root = signed.authority.certificate if mutual else None
    return grpc.ssl_server_credentials([(pair.key, pair.certificate)], root, mutual)


def ask(address: str, security: Security, timeout: float = 5) -> None:
    for way in WAYS:
        assert way(address, methodcaller("search", "a"), timeout=timeout, security=security).hits
        way(address, methodcaller("wait_ready", 5), timeout=timeout, security=security)


def test_a_certificate_of_the_authority_is_trusted_and_no_other(authority: Signed, other: Signed) -> None:
    trusting = Security(ca=authority.folder / "ca.pem")
    named = replace(trusting, server_name="search.test")
    with serving(Refusing(), credentials(authority)) as address:
        for security in (Security(ca=other.folder / "ca.pem"), Security(tls=True), Security(), named):
            with pytest.raises(Unavailable):
                ask(address, security, timeout=1)
        for security in (trusting, replace(trusting, server_name="localhost")):
            ask(address, security)


def test_mutual_tls(authority: Signed, other: Signed) -> None:
    ca = authority.folder / "ca.pem"
    with serving(Refusing(), credentials(authority, mutual=True)) as address:
        ask(address, Security(ca, *authority.client()))
        for stranger in (Security(ca), Security(ca, *other.client())):
            with pytest.raises(Unavailable):
                ask(address, stranger, timeout=1)


def test_a_token_goes_with_every_call() -> None:
    watching = Watching()
    with serving(asked := Refusing(), watching=watching) as address:
        ask(address, Security(token="secret"))
        assert watching.metadata["authorization"] == "Bearer secret"
        with RetrievalClient(address, security=Security(token="secret")) as client:
            list(client.search_stream(["a"], metadata=[("x-request-id", "7")]))
    assert {metadata["authorization"] for metadata in asked.metadata} == {"Bearer secret"}
    assert asked.metadata[-1]["x-request-id"] == "7"
    assert "secret" not in repr(Security(token="secret"))


@pytest.mark.parametrize("make", [RetrievalClient, AsyncRetrievalClient])
@pytest.mark.parametrize(
    "address",
    [
        "192.0.2.1:50051",
        "example.org:443",
        "[2001:db8::1]:1",
        "0.0.0.0:1",
        "dns:///evil.example,localhost:1",
        "dns:///localhost%2eevil.example:1",
        "dns:///localhost:1",  # of URIs, Unix sockets alone count as local
        "ipv4:127.0.0.1:1",
        "dns://192.0.2.1/localhost:1",  # another machine would resolve the name
        "dns://localhost/evil.example:1",
        "ipv4:127.0.0.1:1,10.0.0.1:2",
        "ipv6:[2001:db8::1]:1",
        "unix://evil.example/path",
        "vsock:2:1",  # the host of a virtual machine
        "xds:///localhost:1",
    ],
)
def test_a_token_does_not_travel_in_the_clear(make: Any, address: str) -> None:
    with pytest.raises(InvalidInput, match="in the clear; use TLS") as caught:
        make(address, security=Security(token="secret"))
    assert "secret" not in str(caught.value)


def test_a_token_goes_to_any_target_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")  # would be another machine
    path = tmp_path / "a_server.sock"
    with serving(asked := Refusing(), socket=f"unix:{path}") as address:
        port = address.rpartition(":")[2]
        targets = [f"127.0.0.1:{port}", f"localhost:{port}", f"unix:{path}", f"unix://{path}"]
        for n, target in enumerate(targets, 1):
            ask(target, Security(token="secret"))
            assert [each["authorization"] for each in asked.metadata] == ["Bearer secret"] * 2 * n
    for target in ("[::1]:1", "unix-abstract:name", "unix:a/b"):
        RetrievalClient(target, security=Security(token="secret")).close()


def test_what_makes_no_sense_is_refused() -> None:
    with pytest.raises(InvalidInput, match="a certificate and its key, or neither"):
        Security(certificate=Path("a.pem"))
    with pytest.raises(InvalidInput, match="means nothing without TLS"):
        Security(server_name="search.test")
    for token in ("", "two words", "line\n", "日本"):
        with pytest.raises(InvalidInput, match="expected letters, digits") as caught:
            Security(token=token)
        assert not token.strip() or token not in str(caught.value)


def test_a_file_that_is_no_use_is_named(tmp_path: Path, authority: Signed, other: Signed) -> None:
    ca, rubbish, missing = authority.folder / "ca.pem", tmp_path / "rubbish.pem", tmp_path / "missing"
    rubbish.write_text("rubbish")
    certificate, key = authority.client()
    _, another_key = other.client()
    for security, named in [
        (Security(ca=missing), missing),
        (Security(ca=tmp_path), tmp_path),
        (Security(ca=rubbish), rubbish),
        (Security(ca, missing, key), missing),
        (Security(ca, certificate, missing), missing),
        (Security(ca, rubbish, key), rubbish),
        (Security(ca, certificate, rubbish), rubbish),
        (Security(ca, certificate, another_key), another_key),
    ]:
        with pytest.raises(DataError, match=f"{named}.*: "):
            RetrievalClient("127.0.0.1:1", security=security)
