"""What a person is told whose client gets no connection: what is wrong, and what to do."""

import http.server
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.helpers.serving.certificates import Authority
from tests.serving.cli.test_commands import Capture, failure, misuse
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.security.auth import Access
from twinspire.serving.security.tls import ServerTls, TlsFiles
from twinspire.serving.security.tokens import TokenFile, new_token
from twinspire.serving.server import RetrievalServer


@pytest.fixture(scope="module")
def authorities(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, TlsFiles]:
    """A folder with `ca.pem` and `other.pem`, and a certificate that `ca.pem` has signed."""
    folder = tmp_path_factory.mktemp("tls")
    authority = Authority()
    (folder / "ca.pem").write_bytes(authority.certificate)
    (folder / "other.pem").write_bytes(Authority("other").certificate)
    return folder, TlsFiles(*authority.server().write(folder))


@pytest.fixture(scope="module")
def encrypted(retriever: Retriever, authorities: tuple[Path, TlsFiles]) -> Iterator[str]:
    """The address of a server that speaks TLS."""
    with RetrievalServer(retriever, access=Access(ServerTls(authorities[1]))) as server:
        yield server.address


@contextmanager
def web_server() -> Iterator[str]:
    """A server of HTTP/1, such as that of /metrics."""
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Silent) as server:
        threading.Thread(target=server.serve_forever).start()
        yield f"127.0.0.1:{server.server_port}"
        server.shutdown()


class Silent(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        pass


def told(capsys: Capture, address: str, *flags: str) -> tuple[str, str]:
    """The error, and the advice below it."""
    said = failure(capsys, "search", "bavuti", "--address", address, *flags)
    error, advice = said.removesuffix("\n").split("\n  ")
    assert "\n" not in advice
    return error.removeprefix(f"error: {address}: "), advice


def test_a_dead_port_and_a_host_that_is_not_known(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("TWINSPIRE_MAKE", raising=False)
    error, advice = told(capsys, "127.0.0.1:1")
    assert error == "connection refused"
    assert advice == "is the server running? `python -m twinspire.serving serve` starts one"
    monkeypatch.setenv("TWINSPIRE_MAKE", "1")
    assert told(capsys, "127.0.0.1:1")[1] == "is the server running? `make serve` starts one"
    assert told(capsys, "nowhere.invalid:50051") == ("the host is not known", "check the host in --address")


def test_tls_towards_a_server_without_and_the_reverse(
    capsys: Capture, server: RetrievalServer, encrypted: str
) -> None:
    error, advice = told(capsys, server.address, "--tls")
    assert error == "the server does not speak TLS"
    assert advice == "leave out --tls, --ca and --certificate"
    error, advice = told(capsys, encrypted)
    assert error == "the server closed the connection at once"
    assert advice.startswith("does the server speak TLS? --tls, or --ca PEM")


@pytest.mark.exhaustive
def test_a_certificate_that_is_not_trusted_or_is_of_another_name(
    capsys: Capture, encrypted: str, authorities: tuple[Path, TlsFiles]
) -> None:
    folder, _ = authorities
    for flags in (["--tls"], ["--ca", str(folder / "other.pem")]):
        error, advice = told(capsys, encrypted, *flags)
        assert error.startswith("the server's certificate is not trusted: ")
        assert advice == "--ca PEM names the authority that has signed it"
    error, advice = told(capsys, encrypted, "--ca", str(folder / "ca.pem"), "--server-name", "elsewhere")
    assert error == "the server's certificate is for another name"
    assert advice.startswith("--server-name NAME")


def test_a_server_that_asks_for_a_certificate(
    capsys: Capture, retriever: Retriever, authorities: tuple[Path, TlsFiles]
) -> None:
    folder, files = authorities
    mutual = TlsFiles(files.certificate, files.key, folder / "ca.pem")
    with RetrievalServer(retriever, access=Access(ServerTls(mutual))) as server:
        error, advice = told(capsys, server.address, "--ca", str(folder / "ca.pem"))
    assert error == "the server closed the connection at once"
    assert "--certificate PEM and --key PEM" in advice


def test_the_port_of_another_service(capsys: Capture) -> None:
    with web_server() as address:
        error, advice = told(capsys, address)
    assert error == "what listens there does not speak gRPC"
    assert "/metrics" in advice


def test_no_token_and_an_unknown_one(
    capsys: Capture, retriever: Retriever, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TWINSPIRE_TOKEN", raising=False)
    (tmp_path / "tokens.toml").write_text(new_token("a", "reader")[1])
    (tmp_path / "token").write_text(new_token("a", "reader")[0])
    with RetrievalServer(retriever, access=Access(tokens=TokenFile(tmp_path / "tokens.toml"))) as server:
        error, advice = told(capsys, server.address)
        assert error.startswith("no token; ")
        assert advice == "send a token: --token-file FILE, or the environment variable TWINSPIRE_TOKEN"
        error, advice = told(capsys, server.address, "--token-file", str(tmp_path / "token"))
        assert error == "the token is unknown to this service"
        assert "--token-file" in advice
        assert "--tokens" in advice


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("http://127.0.0.1:50051", "expected host:port, got the URL 'http://127.0.0.1:50051'"),
        ("https://ann:secret@a.example:443/x", "expected host:port, got the URL"),
        ("https://a.example", "expected host:port, got the URL 'https://a.example'; --tls encrypts"),
        ("grpc://[::1]:5", "expected host:port, got the URL"),
        ("localhost", "expected host:port, such as 127.0.0.1:50051, got 'localhost'"),
        ("50051", "expected host:port, such as 127.0.0.1:50051, got '50051'"),
    ],
)
def test_a_url_or_a_host_alone_is_no_address(capsys: Capture, address: str, expected: str) -> None:
    assert f"error: address: {expected}" in misuse(capsys, "info", "--address", address)


def test_an_address_of_grpc_is_one(server: RetrievalServer) -> None:
    for target in (server.address, f"ipv4:{server.address}", f"dns:///{server.address}"):
        with RetrievalClient(target) as client:
            assert client.info().name
