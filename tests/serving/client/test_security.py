"""Whom a client talks to, who it says it is, and what it sends beside a request."""

import asyncio
import datetime
from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.helpers.serving.refusing import Refusing, Watching, serving
from twinspire.protos.errors import DataError, InvalidInput, TwinspireError, Unavailable
from twinspire.serving.client import AsyncRetrievalClient, RetrievalClient, Security

LOCAL = (x509.IPAddress(ip_address("127.0.0.1")),)


@dataclass
class Authority:
    """Issues certificates into a folder; its own is `ca.pem`."""

    folder: Path
    key: ec.EllipticCurvePrivateKey
    name: x509.Name

    @classmethod
    def new(cls, folder: Path) -> "Authority":
        folder.mkdir()
        key = ec.generate_private_key(ec.SECP256R1())
        authority = cls(folder, key, _name(folder.name))
        (folder / "ca.pem").write_bytes(authority._sign(authority.name, key, (), True))
        return authority

    def issue(self, name: str, names: tuple[x509.GeneralName, ...] = LOCAL) -> tuple[Path, Path]:
        """A certificate and its key."""
        key = ec.generate_private_key(ec.SECP256R1())
        certificate, key_file = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        certificate.write_bytes(self._sign(_name(name), key, names, False))
        pem, plain = serialization.Encoding.PEM, serialization.NoEncryption()
        key_file.write_bytes(key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain))
        return certificate, key_file

    def _sign(
        self,
        name: x509.Name,
        key: ec.EllipticCurvePrivateKey,
        names: tuple[x509.GeneralName, ...],
        is_ca: bool,
    ) -> bytes:
        now = datetime.datetime.now(datetime.UTC)
        builder = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - datetime.timedelta(hours=1))
            .not_valid_after(now + datetime.timedelta(hours=1))
            .add_extension(x509.BasicConstraints(ca=is_ca, path_length=None), critical=True)
        )
        if names:
            builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=False)
        return builder.sign(self.key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.new(tmp_path_factory.mktemp("tls") / "ours")


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.new(tmp_path_factory.mktemp("tls") / "theirs")


def credentials(
    authority: Authority, names: tuple[x509.GeneralName, ...] = LOCAL, mutual: bool = False
) -> grpc.ServerCredentials:
    certificate, key = authority.issue("server", names)
    root = (authority.folder / "ca.pem").read_bytes() if mutual else None
    return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())], root, mutual)


@pytest.fixture(scope="module")
def address(authority: Authority) -> Iterator[str]:
    """Of a server with a certificate of `authority`."""
    with serving(Refusing(), credentials(authority)) as address:
        yield address


def ask(address: str, security: Security, timeout: float = 5) -> None:
    with RetrievalClient(address, timeout, security) as client:
        assert client.search("a").hits
        client.wait_ready(5)

    async def session() -> None:
        async with AsyncRetrievalClient(address, timeout, security) as client:
            assert (await client.search("a")).hits
            await client.wait_ready(5)

    asyncio.run(session())


def test_a_certificate_of_the_authority_is_trusted(address: str, authority: Authority) -> None:
    ask(address, Security(ca=authority.folder / "ca.pem"))


def test_any_other_server_is_not(address: str, other: Authority) -> None:
    for security in (Security(ca=other.folder / "ca.pem"), Security(tls=True), Security()):
        with pytest.raises(Unavailable):
            ask(address, security, timeout=1)


def test_the_name_in_the_certificate_counts(authority: Authority) -> None:
    named = credentials(authority, (x509.DNSName("search.test"),))
    with serving(Refusing(), named) as address:
        security = Security(ca=authority.folder / "ca.pem")
        with pytest.raises(Unavailable):
            ask(address, security, timeout=1)
        ask(address, replace(security, server_name="search.test"))


def test_mutual_tls(authority: Authority, other: Authority) -> None:
    ca = authority.folder / "ca.pem"
    with serving(Refusing(), credentials(authority, mutual=True)) as address:
        ask(address, Security(ca, *authority.issue("client")))
        for stranger in (Security(ca), Security(ca, *other.issue("stranger"))):
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
        "dns:example.org:1",
        "dns:///evil.example:1",
        "dns:///evil.example",
        "dns:///localhost.evil.example:1",
        "dns:///evil.example,localhost:1",
        "dns:///localhost:1?x=evil.example:1",
        "dns:///localhost%2eevil.example:1",
        "dns:localhost",
        "dns:///localhost:1",  # of URIs, Unix sockets alone count as local
        "ipv4:127.0.0.1:1",
        "dns://192.0.2.1/localhost:1",  # another machine would resolve the name
        "dns://localhost/evil.example:1",
        "ipv4:10.0.0.1:1,127.0.0.1:2",
        "ipv4:127.0.0.1:1,10.0.0.1:2",
        "ipv4:0.0.0.0:1",
        "ipv4:127.0.0.1",
        "ipv6:[2001:db8::1]:1",
        "ipv6:::1:1",
        "unix://evil.example/path",
        "unix:",
        "unix://",
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


def test_a_file_that_is_no_use_is_named(tmp_path: Path, authority: Authority, other: Authority) -> None:
    ca, rubbish, missing = authority.folder / "ca.pem", tmp_path / "rubbish.pem", tmp_path / "missing"
    rubbish.write_text("rubbish")
    certificate, key = authority.issue("client")
    _, another_key = other.issue("client")
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


def test_a_proxy_does_not_come_between_two_processes_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("no_proxy", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("grpc_proxy", "http://127.0.0.1:1")
    with serving(Refusing()) as address:
        ask(address, Security(token="secret"))


def test_errors_are_of_one_family(address: str) -> None:
    with RetrievalClient(address, timeout=1) as client, pytest.raises(TwinspireError, match=address):
        client.search("a")
