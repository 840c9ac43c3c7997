"""Tokens and roles over a real socket: who gets in, what the others are told, and what changes in between."""

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc import StatusCode
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from tests.helpers.serving.guarded import REQUEST, SERVICE, Ended, code_of, guarded, name_of
from tests.helpers.serving.token_files import Metadata, Tokens, bearer
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.serving.address import client_of_peer
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.security.auth import Access
from twinspire.serving.security.tokens import METHODS, Role, TokenFile

ENCODE = wire.EncodeRequest(queries=[wire.Query(text="ba")])


@pytest.fixture
def tokens(tmp_path: Path) -> Tokens:
    return Tokens(tmp_path / "tokens.toml")


@pytest.fixture
def served(retriever: Retriever, tokens: Tokens) -> Iterator[tuple[str, Ended]]:
    """A server that looks at its token file before every call."""
    with guarded(retriever, Access(tokens=TokenFile(tokens.path, period=0))) as served:
        yield served


@pytest.fixture
def lines(served: tuple[str, Ended]) -> Ended:
    return served[1]


@pytest.fixture
def channel(served: tuple[str, Ended]) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(served[0]) as channel:
        yield channel


@pytest.fixture
def stub(channel: grpc.Channel) -> retrieval_pb2_grpc.RetrievalStub:
    return retrieval_pb2_grpc.RetrievalStub(channel)


def unary(channel: grpc.Channel, method: str) -> Any:
    """A method by its name, of bytes, whether the server has it or not."""
    return channel.unary_unary(f"/{method}", None, None)


@pytest.mark.parametrize(
    ("metadata", "text"),
    [
        ((), "no token"),
        (bearer("x" * 43), "unknown to this service"),
        (bearer(""), "once, with 'Bearer TOKEN'"),
        ((("authorization", "Basic dXNlcjpwYXNz"),), "once, with 'Bearer TOKEN'"),
        ((("authorization", "Bearer"),), "once, with 'Bearer TOKEN'"),
        ((*bearer("a"), *bearer("b")), "once, with 'Bearer TOKEN'"),
        ((("token", "a"),), "no token"),
    ],
)
def test_without_a_token_nobody_gets_in(
    stub: retrieval_pb2_grpc.RetrievalStub, metadata: Metadata, text: str
) -> None:
    code, details = code_of(stub.Search, REQUEST, metadata=metadata)
    assert code is StatusCode.UNAUTHENTICATED
    assert text in details
    with pytest.raises(grpc.RpcError) as failure:
        list(stub.SearchStream(iter([REQUEST] * 3), metadata=metadata, timeout=10))
    assert failure.value.code() is StatusCode.UNAUTHENTICATED


def test_any_number_of_calls_on_one_connection_is_refused(stub: retrieval_pb2_grpc.RetrievalStub) -> None:
    """gRPC resets a connection's calls if more than `--calls` earlier ones have not been freed."""
    codes = {code_of(stub.Search, REQUEST)[0] for _ in range(50)}
    assert codes == {StatusCode.UNAUTHENTICATED}


def test_an_expired_token_is_refused_and_a_later_date_is_not(
    stub: retrieval_pb2_grpc.RetrievalStub, tokens: Tokens, lines: Ended
) -> None:
    code, details = code_of(stub.Search, REQUEST, metadata=tokens.metadata("late"))
    assert (code, details) == (StatusCode.UNAUTHENTICATED, "the token has expired")
    tokens.write(tokens.entries["reader"] + "expires = 2999-12-31T23:59:59+01:00\n")
    assert name_of(lines, stub.Search, REQUEST, tokens.metadata("reader")) == "reader"


def test_a_flood_of_refusals_is_one_line_without_tokens(
    stub: retrieval_pb2_grpc.RetrievalStub, tokens: Tokens, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    for _ in range(50):
        code_of(stub.Search, REQUEST, metadata=tokens.metadata("late"))
    lines = [each.getMessage() for each in caplog.records if each.name == "twinspire.serving.security.auth"]
    assert 1 <= len(lines) <= 3
    assert lines[0].startswith("'/retrieval.v1.Retrieval/Search': the token has expired")
    assert not [each for each in tokens.plain.values() if each in caplog.text]


def test_a_reader_reads_and_so_does_a_writer(
    stub: retrieval_pb2_grpc.RetrievalStub, tokens: Tokens, lines: Ended
) -> None:
    assert name_of(lines, stub.Search, REQUEST, tokens.metadata("reader")) == "reader"
    scheme = (("authorization", f"bEARER {tokens.plain['reader']}"),)
    assert name_of(lines, stub.Encode, ENCODE, scheme) == "reader"
    assert name_of(lines, stub.Search, REQUEST, tokens.metadata("writer")) == "writer"


def test_a_method_that_there_is_not_is_nobodys(channel: grpc.Channel, tokens: Tokens) -> None:
    for method in (f"{SERVICE}/DropEverything", f"{SERVICE}/", "/", "other.Service/Search", "日本"):
        for metadata in ((), tokens.metadata("admin")):
            assert code_of(unary(channel, method), b"", metadata=metadata)[0] is StatusCode.UNIMPLEMENTED


def test_the_file_changes_the_role_of_a_method(
    stub: retrieval_pb2_grpc.RetrievalStub, tokens: Tokens, lines: Ended
) -> None:
    reader, writer = tokens.metadata("reader"), tokens.metadata("writer")
    methods = f'[methods]\n"{SERVICE}/Encode" = "writer"\n"{SERVICE}/Search" = "anyone"\n'
    tokens.write(*tokens.entries.values(), methods)
    code, details = code_of(stub.Encode, ENCODE, metadata=reader)
    assert code is StatusCode.PERMISSION_DENIED
    assert details == "this method requires the role writer; the token's role is reader"
    assert name_of(lines, stub.Encode, ENCODE, writer) == "writer"
    assert name_of(lines, stub.Search, REQUEST, bearer("unknown")) == "127.0.0.1"
    assert name_of(lines, stub.Search, REQUEST, reader) == "127.0.0.1"


def test_health_is_open_and_reflection_is_not(channel: grpc.Channel, tokens: Tokens) -> None:
    answer = health_pb2_grpc.HealthStub(channel).Check(health_pb2.HealthCheckRequest(), timeout=10)
    assert answer.status == health_pb2.HealthCheckResponse.SERVING
    reflection = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo
    request = reflection_pb2.ServerReflectionRequest(list_services="")
    with pytest.raises(grpc.RpcError) as failure:
        list(reflection(iter([request]), timeout=10))
    assert failure.value.code() is StatusCode.UNAUTHENTICATED
    (listed,) = reflection(iter([request]), timeout=10, metadata=tokens.metadata("reader"))
    assert SERVICE in [each.name for each in listed.list_services_response.service]


def test_every_method_of_the_service_has_a_role() -> None:
    for file in (health_pb2, reflection_pb2):
        for service in file.DESCRIPTOR.services_by_name.values():
            assert {f"{service.full_name}/{method.name}" for method in service.methods} <= {*METHODS}


def test_a_new_method_is_opened_to_a_role_on_purpose() -> None:
    """A method takes the role of its service: name a new one here once that is what it should require."""
    reader = {"Encode", "Info", "Score", "Search", "SearchBatch", "SearchStream"}
    writer = {"Changes", "Delete", "Get", "Upsert"}
    roles = {f"{SERVICE}/{name}": Role.READER for name in reader}
    roles |= {f"retrieval.v1.Catalogue/{name}": Role.WRITER for name in writer}
    roles |= {f"retrieval.v1.Events/{name}": Role.RECORDER for name in ("Record", "RecordStream", "List")}
    assert {name: role for name, role in METHODS.items() if name.startswith("retrieval.v1.")} == roles


def test_a_method_of_another_service_is_for_administrators(tokens: Tokens) -> None:
    assert TokenFile(tokens.path).role("/retrieval.v1.Other/Search") is Role.ADMIN


def test_nothing_that_a_stranger_sends_is_parsed(channel: grpc.Channel, tokens: Tokens) -> None:
    call, garbage = unary(channel, f"{SERVICE}/Search"), b"\xff" * 100_000
    assert code_of(call, garbage)[0] is StatusCode.UNAUTHENTICATED
    assert code_of(call, garbage, metadata=tokens.metadata("reader"))[0] is StatusCode.INVALID_ARGUMENT


def test_the_file_is_read_again_and_a_broken_one_keeps_the_old_tokens(
    stub: retrieval_pb2_grpc.RetrievalStub, tokens: Tokens, caplog: pytest.LogCaptureFixture
) -> None:
    reader, writer = tokens.metadata("reader"), tokens.metadata("writer")
    assert code_of(stub.Search, REQUEST, metadata=reader)[0] is StatusCode.OK
    tokens.write(tokens.entries["writer"])
    assert code_of(stub.Search, REQUEST, metadata=reader)[0] is StatusCode.UNAUTHENTICATED
    assert code_of(stub.Search, REQUEST, metadata=writer)[0] is StatusCode.OK
    for broken in ("", "[[token]", '[[token]]\nname = "a"', None):
        caplog.clear()
        if broken is None:
            tokens.path.unlink()
        else:
            tokens.write(broken)
        for _ in range(2):
            assert code_of(stub.Search, REQUEST, metadata=writer)[0] is StatusCode.OK
            assert code_of(stub.Search, REQUEST, metadata=reader)[0] is StatusCode.UNAUTHENTICATED
        (error,) = [each.getMessage() for each in caplog.records if each.levelno == logging.ERROR]
        assert error.startswith(f"{tokens.path}: ")
        assert error.endswith("the tokens read before still count")
    tokens.write("token = []")
    assert code_of(stub.Search, REQUEST, metadata=writer)[0] is StatusCode.UNAUTHENTICATED


@pytest.mark.parametrize(
    ("peer", "host"),
    [
        ("ipv4:10.1.2.3", "10.1.2.3"),
        ("ipv6:%5B2001:db8:1:2:3:4:5:6%5D", "2001:db8:1:2::/64"),
        ("ipv6:%5Bfe80::1%25eth0%5D", "fe80::/64"),
        ("ipv6:[::ffff:10.1.2.3]", "10.1.2.3"),
        ("ipv6:%5B::1%5D", "::1"),
        ("unix", "unix"),
    ],
)
def test_without_a_name_a_caller_is_its_address(peer: str, host: str) -> None:
    assert client_of_peer(f"{peer}:5000") == host
