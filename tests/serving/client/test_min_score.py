"""`min_score` and `weak` over a socket: clients, command line, gateway, and the status of a bundle."""

import io
from collections.abc import Iterator
from operator import methodcaller
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tests.helpers.answers import differences
from tests.helpers.tiny import item_names, tiny_bundle
from tests.serving.cli.test_commands import Capture, document, failure
from tests.serving.client.ways import WAYS, Way, streamed
from twinspire.protos import bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.errors import InvalidInput
from twinspire.serving.cli import tables
from twinspire.serving.client import RetrievalClient
from twinspire.serving.retrieval.answer import Answer, Basis, Timing
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer

KNOWN, UNKNOWN = item_names(300)[3], "zzzz qqqq"
TEXTS = [KNOWN, UNKNOWN, ""]
REFERENCE, WEAK = 0.875, 0.75


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("weak"), score_reference=REFERENCE, weak_score=WEAK)


@pytest.fixture(scope="module")
def weak_server(folder: Path) -> Iterator[RetrievalServer]:
    version = bundle.read(folder).bundle_version

    def status() -> dict[str, Any]:
        versions = {"champion": version, "canary": "0" * 64}
        return {"bundles": [wire.ServedBundle(role=r, bundle_version=v) for r, v in versions.items()]}

    with RetrievalServer(Retriever.load(folder), status=status) as server:
        yield server


@pytest.fixture(scope="module")
def address(weak_server: RetrievalServer) -> str:
    return weak_server.address


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("least", [None, 0.0, 0.4, 2.0])
def test_both_clients_get_what_the_retriever_finds(
    folder: Path, address: str, way: Way, least: float | None
) -> None:
    retriever = Retriever.load(folder)
    queries = [Query(text) for text in TEXTS]
    # A request holds the score in float32.
    rounded = None if least is None else wire.SearchRequest(min_score=least).min_score
    expected = retriever.search(queries, 8, min_score=rounded)

    answers = [
        [way(address, methodcaller("search", text, 8, min_score=least)) for text in TEXTS],
        way(address, methodcaller("search_batch", TEXTS, 8, min_score=least)),
        way(address, lambda client: streamed(client.search_stream(TEXTS, 8, min_score=least))),
    ]
    for found in answers:
        assert differences(expected, found) == []
        assert [answer.weak for answer in found] == [False, True, True]
        assert [len(answer.hits) for answer in found] == [len(answer.hits) for answer in expected]


def test_a_score_that_is_not_finite_is_refused(address: str, capsys: Capture) -> None:
    with RetrievalClient(address) as client:
        for least in (float("nan"), float("inf"), 1e300):  # the last one is infinite in float32
            with pytest.raises(InvalidInput, match="finite") as caught:
                client.search(KNOWN, min_score=least)
            assert caught.value.field == "min_score"
    assert "min_score: expected a finite number" in failure(
        capsys, "search", KNOWN, "--min-score", "nan", "--address", address
    )


def test_a_score_of_an_answer_leaves_its_hit_in_the_next(address: str) -> None:
    with RetrievalClient(address) as client:
        scores = [hit.score for hit in client.search("bavuti kemolira", 10).hits]
        assert len(client.search("bavuti kemolira", 10, min_score=scores[4]).hits) == 5


def test_the_command_line_says_that_nothing_matches_well(address: str, capsys: Capture) -> None:
    found = document(capsys, "search", UNKNOWN, "--address", address)
    assert (found["weak"], len(found["hits"])) == (True, 10)
    assert not document(capsys, "search", KNOWN, "--address", address)["weak"]
    assert document(capsys, "search", UNKNOWN, "--min-score", "0.9", "--address", address)["hits"] == []


@pytest.mark.parametrize(
    ("basis", "is_weak", "is_said"),
    [(Basis.QUERY, True, True), (Basis.QUERY, False, False), (Basis.POPULAR, True, False)],
)
def test_a_table_says_that_nothing_matches_well(basis: Basis, is_weak: bool, is_said: bool) -> None:
    output = io.StringIO()
    answer = Answer((), "v1", Timing(), basis=basis, weak=is_weak)
    tables.show_answer(Console(file=output, width=120), answer)
    assert ("nothing matches well" in output.getvalue().splitlines()) is is_said


def test_a_file_of_queries_takes_the_option(address: str, capsys: Capture, tmp_path: Path) -> None:
    (tmp_path / "queries.txt").write_text(f"{KNOWN}\n{UNKNOWN}\n")
    output = tmp_path / "answers.parquet"
    flags = ("--output", str(output), "--min-score", "0.9", "--address", address)
    document(capsys, "batch", str(tmp_path / "queries.txt"), *flags)
    polars = pytest.importorskip("polars")
    rows = polars.read_parquet(output)
    assert rows["weak"].to_list() == [False, True]
    assert [len(hits) for hits in rows["hits"]] == [2, 0]


def test_the_status_of_a_bundle_has_its_scores(address: str, capsys: Capture) -> None:
    champion, canary = document(capsys, "status", "--address", address)["bundles"]
    assert (champion["score_reference"], champion["weak_score"]) == (REFERENCE, WEAK)
    assert (canary["score_reference"], canary["weak_score"]) == (None, None)
