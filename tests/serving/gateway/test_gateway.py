"""Every RPC as JSON: the same answers as over gRPC, the same errors with the HTTP status of their codes."""

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.protobuf import json_format

from tests.helpers.ports import held_port
from tests.helpers.serving.certificates import Authority
from tests.helpers.serving.gateways import START, RunningGateway, as_json, decided, decided_gateway, read
from tests.helpers.serving.gateways import gateway as run_gateway
from tests.helpers.tiny import FILTERS, tiny_bundle
from tests.helpers.waiting import wait_until
from tests.serving.conftest import Start
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos import retrieval_pb2_grpc
from twinspire.protos.errors import InvalidInput
from twinspire.serving.client.security import Security
from twinspire.serving.gateway.failures import HTTP_STATUS
from twinspire.serving.gateway.options import GatewayBounds, GatewayOptions
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.security.auth import Access
from twinspire.serving.security.tls import ServerTls, TlsFiles
from twinspire.serving.server import RetrievalServer

SEARCH = {"query": {"text": "bavuti"}, "k": 3}
WITHOUT_CATALOGUE = "the service was started without --catalogue"


def without_times(document: Any) -> Any:
    varying = ("timing", "state", "uptime_seconds", "request_id")
    return {key: value for key, value in document.items() if key not in varying}


@pytest.mark.parametrize(
    ("path", "method", "body"),
    [
        ("/v1/search", "Search", SEARCH),
        ("/v1/search", "Search", {"query": {"item_id": "item-004"}, "exclude": ["item-005"]}),
        ("/v1/search:batch", "SearchBatch", {"queries": [{"text": "bavuti"}, {"text": "xelike"}], "k": 2}),
        ("/v1/encode", "Encode", {"queries": [{"text": "bavuti"}]}),
        (
            "/v1/score",
            "Score",
            {"queries": [{"query": {"text": "bavuti"}, "item_ids": ["item-004", "x"]}]},
        ),
        ("/v1/info", "Info", None),
    ],
)
def test_an_rpc_answers_as_it_does_over_grpc(
    gateway: RunningGateway, channel: grpc.Channel, path: str, method: str, body: Any
) -> None:
    answer = gateway.ask(path, body)
    assert (answer.status, answer.headers["content-type"]) == (200, "application/json")
    call = getattr(retrieval_pb2_grpc.RetrievalStub(channel), method)
    request = getattr(wire, f"{method}Request")()
    expected = as_json(call(json_format.ParseDict(body or {}, request)))
    assert without_times(answer.document) == without_times(expected)
    assert set(answer.document) == set(expected)
    if "request_id" in expected:
        assert answer.document["request_id"] == answer.headers["x-request-id"]


@pytest.fixture(scope="module")
def filtering(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningGateway]:
    """A gateway of a service whose items have a filter field of each type."""
    bundle = tiny_bundle(tmp_path_factory.mktemp("filtered"), filters=FILTERS)
    with RetrievalServer(Retriever.load(bundle)) as server, run_gateway(server.address) as running:
        yield running


@pytest.mark.parametrize(
    ("text", "field", "bound"),
    [
        ("price < 20", "price", {"below": {"number": 20}}),
        ("released >= 2026-01-02", "released", {"at_least": {"time": "2026-01-02T00:00:00Z"}}),
    ],
)
def test_a_filter_may_be_a_text(filtering: RunningGateway, text: str, field: str, bound: Any) -> None:
    tree = {"condition": {"field": field, "range": bound}}
    given = {"queries": [{"text": "bavuti"}], "k": 300}  # so all items that pass are in the answer
    expected = filtering.ask("/v1/search:batch", {**given, "filter": tree}).document["results"][0]
    passing = {hit["id"] for hit in expected["hits"]}
    assert 0 < len(passing) < 300
    several = filtering.ask("/v1/search:batch", {**given, "filter": text}).document["results"][0]
    one = filtering.ask("/v1/search", {"query": {"text": "bavuti"}, "k": 300, "filter": text}).document
    assert {hit["id"] for hit in several["hits"]} == {hit["id"] for hit in one["hits"]} == passing


def test_a_wrong_text_of_a_filter_is_refused_by_its_place(filtering: RunningGateway) -> None:
    for text, reason in (
        ("price <", "filter: character 8: expected a string in quotes, a number"),
        ("cost < 3", "filter.cost: "),
        ("price < 'cheap'", "filter.price.below: expected a number, got a string"),
    ):
        answer = filtering.ask("/v1/search", {**SEARCH, "filter": text})
        assert answer.error[:2] == (400, "INVALID_ARGUMENT")
        assert answer.error[2].startswith(reason), answer.error


def test_health_is_that_of_the_service(gateway: RunningGateway) -> None:
    assert gateway.ask("/readyz").document == {"status": "SERVING"}
    assert gateway.ask("/healthz").document == {"status": "ALIVE"}


def test_a_service_that_is_not_there_is_unavailable() -> None:
    with held_port() as port, run_gateway(f"127.0.0.1:{port}") as running:
        for answer in (running.ask("/readyz"), running.ask("/v1/search", SEARCH)):
            assert answer.error[:2] == (503, "UNAVAILABLE")
        assert running.ask("/healthz").status == 200
        assert b"twinspire_gateway_in_progress 0.0" in running.ask("/metrics").body


@pytest.mark.parametrize(
    ("path", "body", "error"),
    [
        ("/v1/search", {"quer": {}}, (400, "INVALID_ARGUMENT", "quer: unknown field; did you mean query?")),
        ("/v1/search", {"query": {"text": "a"}, "k": 10**6}, (400, "INVALID_ARGUMENT", "k: ")),
        ("/v1/search", {"query": {"item_id": "nobody"}}, (404, "NOT_FOUND", "")),
        ("/v1/search", b"\xff", (400, "INVALID_ARGUMENT", "body: expected UTF-8")),
        ("/v1/items:get", {"ids": ["a"]}, (501, "UNIMPLEMENTED", WITHOUT_CATALOGUE)),
        ("/v1/items:changes", {"after": 0}, (404, "NOT_FOUND", "")),
        ("/v1/compare", SEARCH, (501, "UNIMPLEMENTED", "there is one service alone; start the gateway with")),
        ("/v1/nothing", None, (404, "NOT_FOUND", "/v1/nothing: no such path")),
        ("/v1/search", None, (405, "UNIMPLEMENTED", "GET /v1/search: expected POST")),
    ],
)
def test_an_error_has_a_status_a_code_and_a_message(
    gateway: RunningGateway, path: str, body: Any, error: tuple[int, str, str]
) -> None:
    status, code, message = gateway.ask(path, body).error
    assert (status, code) == error[:2]
    assert message.startswith(error[2])


def test_each_code_has_its_status() -> None:
    with decided(text="why") as (service, address), run_gateway(address) as running:
        for code in grpc.StatusCode:
            if code is not grpc.StatusCode.OK:
                service.code = code
                assert running.ask("/v1/search", SEARCH).error == (HTTP_STATUS[code], code.name, "why")


def test_a_service_says_when_to_come_back() -> None:
    refused = {"code": grpc.StatusCode.RESOURCE_EXHAUSTED, "trailers": (("grpc-retry-pushback-ms", "1200"),)}
    with decided(**refused) as (service, address), run_gateway(address) as running:
        answer = running.ask("/v1/search", SEARCH)
        assert (answer.status, answer.headers["retry-after"]) == (429, "2")
        assert service.seen.qsize() == 1  # it has not been asked again
        service.trailers = (("grpc-retry-pushback-ms", "-1"),)
        assert "retry-after" not in running.ask("/v1/search", SEARCH).headers


def test_the_deadline_is_the_requests_own() -> None:
    with decided_gateway(timeout=9.0, longest_timeout=20.0) as (service, running):
        assert running.ask("/v1/search", SEARCH).status == 200
        assert 5 < service.seen.get()["seconds"] <= 9.5
        assert running.ask("/v1/search", SEARCH, {"Request-Timeout": "15"}).status == 200
        assert 10 < service.seen.get()["seconds"] <= 16  # gRPC rounds it up
        service.released.clear()
        late = running.ask("/v1/search", SEARCH, {"Request-Timeout": "0.2"})
        assert late.error[:2] == (504, "DEADLINE_EXCEEDED")


@pytest.mark.parametrize("given", ["0", "nan", "61", "soon", ""])
def test_a_timeout_that_is_none_is_refused(gateway: RunningGateway, given: str) -> None:
    status, _, message = gateway.ask("/v1/search", SEARCH, {"Request-Timeout": given}).error
    assert status == 400
    assert message == f"Request-Timeout: expected seconds, above 0 and at most 60, got {given!r}"


def test_headers_are_passed_on_as_metadata() -> None:
    given = {
        "Authorization": "Bearer abc",
        "X-Request-Key": "user-1",
        "Traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
    }
    with decided_gateway() as (service, running):
        assert running.ask("/v1/search", SEARCH, given | {"Cookie": "secret"}).status == 200
        seen = service.seen.get()
        assert {name: seen.get(name.lower()) for name in given} == given
        assert "cookie" not in seen
        assert running.ask("/v1/search", SEARCH, {"Authorization": "Bearer \xe9"}).error[0] == 400


def test_a_token_opens_what_it_may(guarded: tuple[RunningGateway, str]) -> None:
    running, secret = guarded
    refused = running.ask("/v1/search", SEARCH)
    assert refused.error[:2] == (401, "UNAUTHENTICATED")
    assert refused.headers["www-authenticate"] == "Bearer"
    assert running.ask("/v1/search", SEARCH, {"Authorization": f"Bearer {secret}"}).status == 200


@pytest.mark.parametrize("address", ["192.0.2.1:50051", "dns:///search.test:1", "dns:///127.0.0.1:1"])
def test_a_token_never_goes_to_another_machine_in_the_clear(address: str) -> None:
    with run_gateway(address) as running:
        error = running.ask("/v1/search", SEARCH, {"Authorization": "Bearer abc"}).error
    assert error[:2] == (400, "FAILED_PRECONDITION")
    assert "in the clear; start the gateway with --tls" in error[2]


def test_the_service_is_asked_over_tls(retriever: Retriever, tmp_path: Path) -> None:
    authority = Authority()
    certificate, key = authority.server().write(tmp_path)
    (tmp_path / "ca.pem").write_bytes(authority.certificate)
    with RetrievalServer(retriever, access=Access(tls=ServerTls(TlsFiles(certificate, key)))) as server:
        with run_gateway(server.address, security=Security(ca=tmp_path / "ca.pem")) as running:
            assert len(running.ask("/v1/search", SEARCH).document["hits"]) == 3
        with run_gateway(server.address) as running:
            assert running.ask("/v1/search", SEARCH).error[:2] == (503, "UNAVAILABLE")


def test_nobody_is_told_where_the_service_is(caplog: pytest.LogCaptureFixture) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    address = f"127.0.0.1:{port}"
    for given, path in ((address, "search"), (address, "compare"), ("no.such.invalid:1", "search")):
        with run_gateway(given, compare_address=address if path == "compare" else None) as running:
            answers = [
                running.ask("/v1/gateway"),
                running.ask(f"/v1/{path}", SEARCH),
                running.ask("/readyz"),
            ]
            assert answers[1].error[0] == 503
            assert "the service cannot be reached" in answers[1].error[2]
        for each in answers:
            for secret in (str(port), "127.0.0.1", "no.such"):
                assert secret not in each.body.decode()
    assert address in caplog.text
    with run_gateway("192.0.2.1:50051") as running:
        refused = running.ask("/v1/search", SEARCH, {"Authorization": "Bearer abc"})
    assert "192.0.2.1" not in refused.body.decode()


def test_two_services_are_compared(server: RetrievalServer, full_retriever: Retriever) -> None:
    with (
        RetrievalServer(full_retriever) as other,
        run_gateway(server.address, compare_address=other.address) as running,
    ):
        both = running.ask("/v1/compare", SEARCH).document
        assert [*both] == ["champion", "challenger"]
        versions = [both[name]["bundle_version"] for name in both]
        assert len(set(versions)) == 2
        assert all(len(answer["hits"]) == 3 for answer in both.values())
        assert running.ask("/v1/gateway").document["compare"] is True
        wrong = running.ask("/v1/compare", {"query": {"features": {"country": {"text": "NL"}}}})
        assert wrong.error[:2] == (400, "INVALID_ARGUMENT")
        assert wrong.error[2].partition(": ")[0] in ("champion", "challenger")


def test_a_page_of_another_origin_cannot_write(gateway: RunningGateway) -> None:
    body = json.dumps(SEARCH).encode()
    for given in ("text/plain", "application/x-www-form-urlencoded", ""):
        status, _, message = gateway.ask("/v1/search", body, {"content-type": given}).error
        assert status == 415
        assert message.startswith("Content-Type: expected application/json")
    assert gateway.ask("/v1/search", body, {"content-type": "application/json; charset=utf-8"}).status == 200


def test_a_name_of_somebody_else_is_refused(gateway: RunningGateway) -> None:
    for path, status in (("/healthz", 200), ("/readyz", 421), ("/metrics", 421)):
        assert gateway.ask(path, headers={"host": "10.0.0.7:8080"}).status == status
    for name in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example:8080", ""):
        assert gateway.ask("/v1/search", SEARCH, {"host": name}).error[0] == 421, name
    for name in ("localhost:1", "127.0.0.1", "[::1]:8080", "LOCALHOST"):
        assert gateway.ask("/v1/search", SEARCH, {"host": name}).status == 200, name


def test_a_host_may_be_allowed() -> None:
    assert GatewayOptions(host="0.0.0.0", insecure=True).host_names is None
    only = GatewayOptions(host="0.0.0.0", insecure=True, allow_host=("Shop.example",)).host_names
    assert only is not None
    assert {"shop.example", "localhost"} <= only
    assert "other.example" not in only


def test_the_address_that_it_listens_on_is_a_name_of_it() -> None:
    with decided_gateway(host="127.0.0.2") as (_, running):
        connection = http.client.HTTPConnection("127.0.0.2", running.port, timeout=30)
        connection.request("GET", "/v1/gateway")
        assert read(connection).status == 200
        connection.close()
    named = GatewayOptions(host="::1").host_names
    assert named is not None
    assert "[::1]" in named


def test_bodies_are_bounded() -> None:
    with decided_gateway(bounds=GatewayBounds(max_body_bytes=1000)) as (service, running):
        large = json.dumps({"query": {"text": "a" * 1000}}).encode()
        told = running.ask("/v1/search", large)
        assert told.error[:2] == (413, "INVALID_ARGUMENT")
        # Without a length, in parts: the gateway answers before the last part, which never comes.
        parts = b"%x\r\n%s\r\n" % (600, b"a" * 600) * 2
        with running.send(START + b"Transfer-Encoding: chunked\r\n\r\n" + parts) as connection:
            assert connection.recv(4096).startswith(b"HTTP/1.1 413 ")
        assert service.seen.empty()


def test_the_objects_of_a_body_are_bounded() -> None:
    queries = {"queries": [{"text": "a"}] * 34}  # 70 objects and fields
    with decided_gateway(bounds=GatewayBounds(max_body_fields=17 * 16)) as (service, running):
        status, _, message = running.ask("/v1/search:batch", queries).error
        assert status == 413
        assert message.startswith("body: expected at most 68 objects, fields, ")
        assert service.seen.empty()


def test_a_body_that_does_not_arrive_in_time_is_given_up() -> None:
    with (
        decided_gateway(timeout=0.5, longest_timeout=0.5) as (_, running),
        running.send(START + b"Content-Length: 100\r\n\r\n{") as connection,
    ):
        answer = b"".join(iter(lambda: connection.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 408 ")


def test_requests_in_progress_are_bounded() -> None:
    with decided_gateway(bounds=GatewayBounds(requests=1)) as (service, running):
        service.released.clear()
        with running.connect("/v1/search", SEARCH) as first:
            service.seen.get(timeout=30)
            second = running.ask("/v1/search", SEARCH)
            assert second.error[:2] == (503, "UNAVAILABLE")
            assert second.headers["retry-after"] == "1"
            service.released.set()
            assert read(first).status == 200
        wait_until(lambda: running.ask("/v1/search", SEARCH).status == 200)


@pytest.mark.parametrize(("path", "count"), [("/v1/search", 1), ("/v1/compare", 2)])
def test_a_client_that_goes_away_cancels_its_calls(path: str, count: int) -> None:
    with (
        decided() as (one, address),
        decided() as (other, second),
        run_gateway(address, compare_address=second) as running,
    ):
        one.released.clear()
        other.released.clear()
        asked = (one, other)[:count]
        with running.connect(path, SEARCH):
            for service in asked:
                service.seen.get(timeout=30)
        for service in asked:  # the deadline is 5 s away, and `Search` would wait for it
            assert service.ended.get(timeout=4) == "Search"


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"host": "0.0.0.0"}, "host"),
        ({"https_certificate": Path("a.pem")}, "https_certificate"),
        ({"timeout": 100.0}, "timeout"),
        ({"security": Security(token="abc")}, "security.token"),
        ({"allow_host": ("shop.example:8080",)}, "allow_host"),
        ({"allow_host": ("https://shop.example",)}, "allow_host"),
        ({"allow_host": ("::1",)}, "allow_host"),
        ({"image_field": ""}, "image_field"),
        ({"cors_origin": ("https://Shop.example",)}, "cors_origin"),
        ({"cors_origin": ("https://bücher.example",)}, "cors_origin"),
        ({"cors_origin": ("https://shop.example:443",)}, "cors_origin"),
        ({"cors_origin": ("http://[::1]:80",)}, "cors_origin"),
    ],
)
def test_options_that_contradict_each_other_are_refused(options: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidInput) as error:
        GatewayOptions(**options)
    assert error.value.field == field


@pytest.mark.exhaustive
def test_items_are_written_and_read(start_server: Start, tmp_path: Path) -> None:
    _, address = start_server("--catalogue", f"sqlite:///{tmp_path}/items.db", "--workers", "1")
    with run_gateway(address) as running:
        item = {"id": "lamp", "features": {"text": {"text": "bavuti"}}, "fields": {"name": "A lamp"}}
        written = running.ask("/v1/items:upsert", {"items": [{"item": item}], "request_id": "one"}).document
        assert (written["sequence"], written["results"][0]["error"]) == (1, "WRITE_OK")
        again = running.ask("/v1/items:upsert", {"items": [{"item": item}], "request_id": "one"}).document
        assert again["repeated_request"]
        found = running.ask("/v1/search", {"query": {"text": "bavuti"}, "min_sequence": written["sequence"]})
        assert "lamp" in [hit["id"] for hit in found.document["hits"]]
        assert running.ask("/v1/items:get", {"ids": ["lamp"]}).document["items"][0]["origin"] == "ITEM_LIVE"
        deleted = running.ask("/v1/items:delete", {"items": [{"id": "lamp"}]}).document
        assert deleted["results"][0]["error"] == "WRITE_OK"
