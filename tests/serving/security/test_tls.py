"""TLS over a real socket: who can connect, with which certificate, and what happens when it is replaced."""

import logging
import queue
import ssl
from pathlib import Path
from typing import Any

import grpc
import pytest
from cryptography import x509
from grpc import StatusCode

from tests.helpers.serving.certificates import Authority, Pair
from tests.helpers.serving.guarded import REQUEST, Ended, code_of, guarded, name_of
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.errors import ConfigError
from twinspire.serving.config import ServiceConfig
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.security.auth import Access
from twinspire.serving.security.tls import ServerTls, TlsFiles, check_exposure
from twinspire.serving.security.tokens import TokenFile, new_token
from twinspire.serving.service import _access


@pytest.fixture(scope="module")
def authority() -> Authority:
    return Authority()


@pytest.fixture
def files(authority: Authority, tmp_path: Path) -> TlsFiles:
    """A server's certificate and key."""
    return TlsFiles(*authority.server().write(tmp_path))


@pytest.fixture
def mutual(files: TlsFiles, authority: Authority, tmp_path: Path) -> TlsFiles:
    """The same for a server that asks for certificates of clients."""
    client_ca = tmp_path / "client-ca.pem"
    client_ca.write_bytes(authority.certificate)
    return TlsFiles(files.certificate, files.key, client_ca)


def connect(address: str, authority: Authority, client: Pair | None = None) -> grpc.Channel:
    key, chain = (client.key, client.certificate) if client else (None, None)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(authority.certificate, key, chain))


def search(channel: grpc.Channel) -> StatusCode:
    with channel:
        return code_of(retrieval_pb2_grpc.RetrievalStub(channel).Search, REQUEST)[0]


def name_of_caller(lines: Ended, channel: grpc.Channel) -> str:
    with channel:
        return name_of(lines, retrieval_pb2_grpc.RetrievalStub(channel).Search, REQUEST)


def served_serial(address: str) -> int:
    host, port = address.rsplit(":", 1)
    pem = ssl.get_server_certificate((host, int(port)), timeout=10)
    return x509.load_pem_x509_certificate(pem.encode()).serial_number


def test_only_tls_that_trusts_the_certificate_connects(
    retriever: Retriever, files: TlsFiles, authority: Authority
) -> None:
    with guarded(retriever, Access(tls=ServerTls(files))) as (address, lines):
        assert search(connect(address, authority)) is StatusCode.OK
        assert search(connect(address, Authority("foreign"))) is StatusCode.UNAVAILABLE
        assert search(grpc.insecure_channel(address)) is StatusCode.UNAVAILABLE
        assert name_of_caller(lines, connect(address, authority)) == "127.0.0.1"
        assert search(connect(address, authority)) is StatusCode.OK


def test_a_client_must_show_a_certificate_of_the_authority(
    retriever: Retriever, mutual: TlsFiles, authority: Authority
) -> None:
    refused = {
        "none": None,
        "foreign": Authority("foreign").client("frontend"),
        "foreign of the same name": Authority("tests").client("frontend"),
        "expired": authority.client("frontend", expired=True),
        "a server's": authority.server(),
    }
    with guarded(retriever, Access(tls=ServerTls(mutual))) as (address, lines):
        for why, client in refused.items():
            assert search(connect(address, authority, client)) is StatusCode.UNAVAILABLE, why
        assert name_of_caller(lines, connect(address, authority, authority.client("frontend"))) == "frontend"
        by_dns = authority.client("frontend.example")
        assert name_of_caller(lines, connect(address, authority, by_dns)) == "frontend.example"


def test_a_token_goes_before_a_certificate(
    retriever: Retriever, mutual: TlsFiles, authority: Authority, tmp_path: Path
) -> None:
    token, entry = new_token("by-token", "reader")
    path = tmp_path / "tokens.toml"
    path.write_text(entry)
    with guarded(retriever, Access(tls=ServerTls(mutual), tokens=TokenFile(path))) as (address, lines):
        client = authority.client("by-certificate")
        assert search(connect(address, authority, client)) is StatusCode.UNAUTHENTICATED
        with connect(address, authority, client) as channel:
            stub = retrieval_pb2_grpc.RetrievalStub(channel)
            metadata = (("authorization", f"Bearer {token}"),)
            assert name_of(lines, stub.Search, REQUEST, metadata) == "by-token"


def test_a_new_certificate_is_shown_to_new_connections_while_old_ones_go_on(
    retriever: Retriever, files: TlsFiles, authority: Authority, tmp_path: Path
) -> None:
    successor = Authority("successor")
    requests: queue.SimpleQueue[wire.SearchRequest | None] = queue.SimpleQueue()
    with (
        guarded(retriever, Access(tls=ServerTls(files))) as (address, _),
        connect(address, authority) as old,
    ):
        first = served_serial(address)
        stream = retrieval_pb2_grpc.RetrievalStub(old).SearchStream(iter(requests.get, None), timeout=30)
        requests.put(REQUEST)
        next(stream)
        pair = successor.server()
        pair.write(tmp_path)
        assert served_serial(address) == pair.serial != first
        assert search(connect(address, successor)) is StatusCode.OK
        assert search(connect(address, authority)) is StatusCode.UNAVAILABLE
        requests.put(REQUEST)
        next(stream)
        requests.put(None)
        assert list(stream) == []
        assert code_of(retrieval_pb2_grpc.RetrievalStub(old).Search, REQUEST)[0] is StatusCode.OK


def test_a_pair_that_does_not_match_keeps_the_old_one(
    retriever: Retriever, files: TlsFiles, authority: Authority, caplog: pytest.LogCaptureFixture
) -> None:
    with guarded(retriever, Access(tls=ServerTls(files))) as (address, _):
        first, successor = served_serial(address), authority.server()
        files.certificate.write_bytes(successor.certificate)
        for _ in range(2):
            assert served_serial(address) == first
        (error,) = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
        assert error.startswith(f"{files.key}: is not the key of {files.certificate}")
        assert search(connect(address, authority)) is StatusCode.OK
        files.key.write_bytes(successor.key)
        assert served_serial(address) == successor.serial
        files.key.unlink()
        assert served_serial(address) == successor.serial


def test_a_new_authority_of_clients_counts_for_new_connections(
    retriever: Retriever, mutual: TlsFiles, authority: Authority
) -> None:
    successor = Authority("successor")
    assert mutual.client_ca
    with guarded(retriever, Access(tls=ServerTls(mutual))) as (address, _):
        assert search(connect(address, authority, authority.client("a"))) is StatusCode.OK
        mutual.client_ca.write_bytes(successor.certificate)
        assert search(connect(address, authority, authority.client("a"))) is StatusCode.UNAVAILABLE
        assert search(connect(address, authority, successor.client("a"))) is StatusCode.OK


ENCRYPTED = (
    b"-----BEGIN EC PRIVATE KEY-----\nProc-Type: 4,ENCRYPTED\nDEK-Info: AES-256-CBC,%032d\n\nAA==\n" % 0
)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("certificate.pem", None, "certificate.pem: cannot be read: No such file"),
        ("key.pem", None, "key.pem: cannot be read: No such file"),
        ("certificate.pem", b"\xff", "certificate.pem: expected certificates as PEM"),
        ("client-ca.pem", Authority().client("a").certificate, "client-ca.pem: holds no certificate"),
        ("key.pem", b"junk", "key.pem: cannot be used with .*certificate.pem"),
        ("key.pem", Authority().server().key, "key.pem: is not the key of .*certificate.pem"),
        ("key.pem", ENCRYPTED + b"-----END EC PRIVATE KEY-----\n", "key.pem: is encrypted"),
    ],
)
def test_files_that_cannot_work_are_refused_at_start(
    mutual: TlsFiles, tmp_path: Path, name: str, content: bytes | None, message: str
) -> None:
    mutual.read()
    if content is None:
        (tmp_path / name).unlink()
    else:
        (tmp_path / name).write_bytes(content)
    for use in (mutual.read, lambda: ServerTls(mutual)):
        with pytest.raises(ConfigError, match=message):
            use()


def test_a_service_in_clear_stays_on_loopback_unless_told_otherwise() -> None:
    for host in ("127.0.0.1", "::1", "localhost"):
        check_exposure(host, tls=False, tokens=True, allow_insecure=False)
    for host in ("0.0.0.0", "::", "10.0.0.1", "example.org"):
        check_exposure(host, tls=True, tokens=False, allow_insecure=False)
        check_exposure(host, tls=False, tokens=True, allow_insecure=True)
        with pytest.raises(ConfigError, match=f"{host}: tokens would cross the network unencrypted"):
            check_exposure(host, tls=False, tokens=True, allow_insecure=False)
        with pytest.raises(ConfigError, match=f"{host}: any client that reaches .* say --insecure"):
            check_exposure(host, tls=False, tokens=False, allow_insecure=False)


def test_a_service_that_all_may_call_says_so_at_its_start(
    files: TlsFiles, mutual: TlsFiles, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tokens = tmp_path / "tokens.toml"
    tokens.write_text("token = []\n")

    def warnings(**options: Any) -> list[str]:
        caplog.clear()
        _access(ServiceConfig(tmp_path, **options))
        return [each.getMessage() for each in caplog.records if each.levelno == logging.WARNING]

    said = ["0.0.0.0: any client that reaches this address may call; give --tokens or --client-ca"]
    assert warnings(host="0.0.0.0", tls=files) == said
    assert warnings(host="0.0.0.0", insecure=True) == said
    assert warnings(host="0.0.0.0", tls=mutual) == []
    assert warnings(host="0.0.0.0", tls=files, tokens=tokens) == []
    assert warnings(host="127.0.0.1", tls=files) == warnings(host="127.0.0.1") == []
