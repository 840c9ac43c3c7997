"""What a worker sends to the log, for each kind of query and of bundle."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.helpers.serving.loopback import configured
from tests.helpers.tiny import tiny_bundle
from tests.serving.retrieval.test_interest_search import interests_bundle
from tests.serving.served_log.test_columns import assert_read
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.drift import DriftReference, word_bits
from twinspire.serving.client import FusionMode, Query, RetrievalClient, where
from twinspire.serving.observability.metrics import LOG_DROPPED, LOG_FAILED
from twinspire.serving.observability.worker_metrics import SharedMetrics
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.served_log import sampling
from twinspire.serving.served_log.columns import Row, to_table
from twinspire.serving.served_log.config import ServedLogConfig
from twinspire.serving.served_log.sampling import (
    MOST_BYTES,
    AnswerSampler,
    LoggedQuery,
    TakenAnswer,
    decoded,
)
from twinspire.serving.served_log.shared_queue import SharedQueues
from twinspire.serving.server import RetrievalServer
from twinspire.serving.service_status import ServiceStatus
from twinspire.serving.shadow.mirror import TrafficMirror, received
from twinspire.serving.shared_state import ENTRIES, SERVED_LOG, TARGET, SharedState
from twinspire.serving.wire.converters import RequestLimits

Rows = list[tuple[LoggedQuery, wire.SearchResponse]]


def parsed(row: Row) -> tuple[LoggedQuery, wire.SearchResponse]:
    return row[0], wire.SearchResponse.FromString(row[1])


def serialized(rows: Rows) -> list[Row]:
    return [(query, answer.SerializeToString()) for query, answer in rows]


@contextmanager
def logging(
    folder: Path, limits: RequestLimits | None = None, **options: Any
) -> Iterator[tuple[RetrievalClient, Callable[[], Rows]]]:
    """A client of a server with a log, and what takes the rows that have arrived."""
    config = ServedLogConfig(Path(), served_log_share=1.0, **options)
    with closing(SharedQueues(1)) as queues:

        def rows() -> Rows:
            found: Rows = []
            while queues.wait(0.5):
                taken = [*chain.from_iterable(map(decoded, queues.take(100)))]
                assert_read([answer for _, answer in taken])
                found += map(parsed, taken)
            assert queues.dropped == 0
            return found

        server = RetrievalServer(
            Retriever.load(folder),
            configured(limits=limits or RequestLimits(), served_log=config),
            log_queues=queues,
        )
        with server, RetrievalClient(server.address) as client:
            yield client, rows


@pytest.fixture(scope="module")
def hybrid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_bundle(tmp_path_factory.mktemp("hybrid"), is_hybrid=True, filters={"section": "string"})


@pytest.mark.parametrize(
    ("query", "options"),
    [
        (Query("bavuti"), {"filter": where.section == "section 1"}),
        (Query(item_id="item-003"), {"exclude": ["item-001"]}),
    ],
)
def test_explored_hits_are_the_best_ones_in_another_order(
    hybrid: Path, query: Query, options: Mapping[str, Any]
) -> None:
    with logging(hybrid, explore_share=1.0, explore_top=6, explore_temperature=1e3) as (client, rows):
        answers = [client.search(query, k=8, **options) for _ in range(6)]
        batch = client.search_batch([query] * 6, k=8, **options)
        logged = rows()
    with RetrievalServer(Retriever.load(hybrid)) as server, RetrievalClient(server.address) as client:
        expected = client.search(query, k=8, **options)
    scores = {hit.id: hit.score for hit in expected.hits}
    best = [hit.id for hit in expected.hits]
    assert len({tuple(hit.id for hit in each.hits) for each in answers + batch}) > 6
    assert [answer.request_id for _, answer in logged] == [each.request_id for each in answers + batch]
    for (asked, _), answer in zip(logged, answers + batch, strict=True):
        assert answer.explored
        ids = [hit.id for hit in answer.hits]
        assert {*ids[:6]} == {*best[:6]}
        assert ids[6:] == best[6:]
        assert {hit.id: hit.score for hit in answer.hits} == pytest.approx(scores, abs=1e-5)
        assert len(answer.propensities) == len(answer.hits)
        assert answer.propensities[5:] == (1.0,) * len(answer.hits[5:])
        assert asked.candidates is not None
        assert asked.candidates[0] == best[:6]
        assert all(hit.lexical is not None for hit in answer.hits)


def test_popular_items_can_be_explored(watched: Path) -> None:
    with logging(watched, explore_share=1.0, explore_top=4) as (client, rows):
        answer = client.search(Query(), k=3)
        ((asked, logged),) = rows()
    assert answer.explored
    assert logged.basis == wire.BASIS_POPULAR
    table = to_table(serialized([(asked, logged)]), str).to_pylist()[0]
    assert table["propensities"] == [*answer.propensities]
    assert table["temperature"] > 0


def test_answers_by_several_interests_can_be_explored(tmp_path: Path) -> None:
    query = Query(history=("item-001", "item-044"))
    with logging(interests_bundle(tmp_path), explore_share=1.0, explore_top=5) as (client, rows):
        answers = [client.search(query, k=7) for _ in range(8)]
        logged = rows()
    assert len({tuple(hit.id for hit in each.hits) for each in answers}) > 1
    for (asked, _), answer in zip(logged, answers, strict=True):
        assert asked.candidates is not None
        assert {*asked.candidates[0]} == {hit.id for hit in answer.hits[:5]}
        assert asked.candidates[1] == sorted(asked.candidates[1], reverse=True)


def test_queries_of_a_batch_are_explored_each_for_itself(plain: Path) -> None:
    with logging(plain, explore_share=0.5, explore_top=20) as (client, _):
        answers = client.search_batch(["bavuti"] * 64, k=3)
    explored = [each.explored for each in answers]
    assert 12 < sum(explored) < 52
    assert {len(each.hits) for each in answers} == {3}
    assert all(not each.propensities for each in answers if not each.explored)


def test_min_score_holds_for_what_is_explored(plain: Path) -> None:
    with RetrievalServer(Retriever.load(plain)) as server, RetrievalClient(server.address) as client:
        scores = [hit.score for hit in client.search("bavuti", k=20).hits]
    least = float(np.float32((scores[4] + scores[5]) / 2))
    with logging(plain, explore_share=1.0, explore_temperature=1e3) as (client, rows):
        answer = client.search("bavuti", k=10, min_score=least)
        ((asked, _),) = rows()
    assert len(answer.hits) == 5
    assert asked.candidates is not None
    assert len(asked.candidates[0]) == 5


def test_no_explored_answer_goes_to_a_shadow(plain: Path) -> None:
    config = ServedLogConfig(Path(), served_log_share=1.0, explore_share=0.5)
    with closing(SharedQueues(1)) as queues, closing(SharedQueues(1)) as shadow:
        state = SharedState(("shadow target",))
        state.write("shadow target", {"bundle_version": "x"})
        server = RetrievalServer(
            Retriever.load(plain),
            configured(served_log=config),
            log_queues=queues,
            mirror=TrafficMirror(shadow, state, 0, 1.0, 1000),
        )
        with server, RetrievalClient(server.address) as client:
            explored = [client.search("bavuti").explored for _ in range(40)]
        mirrored = [*received(shadow, 100)]
    assert 0 < sum(explored) < 40
    assert len(mirrored) == 40 - sum(explored)
    assert not any(wire.SearchResponse.FromString(response).explored for _, response in mirrored)


def test_large_batches_are_sent_in_parts(plain: Path) -> None:
    with logging(plain) as (client, rows):
        answers = client.search_batch(["bavuti"] * 64, k=200)
        logged = rows()
    assert sum(answer.ByteSize() for _, answer in logged) > 3 * MOST_BYTES
    assert [answer.request_id for _, answer in logged] == [each.request_id for each in answers]


def test_an_answer_that_cannot_be_logged_is_counted_and_the_others_are_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, plain: Path
) -> None:
    row = AnswerSampler._row

    def failing(sampler: AnswerSampler, taken: TakenAnswer, place: int) -> tuple[Any, ...]:
        if place == 0:
            raise ValueError("of a test")
        written = row(sampler, taken, place)
        return (*written[:-1], object()) if place == 1 else written  # which cannot be written as bytes

    monkeypatch.setattr(AnswerSampler, "_row", failing)
    with closing(SharedQueues(2)) as queues:
        config = ServedLogConfig(Path(), served_log_share=1.0)
        server = RetrievalServer(Retriever.load(plain), configured(served_log=config), log_queues=queues)
        with server, RetrievalClient(server.address) as client:
            answers = client.search_batch(["bavuti"] * 5, k=1)
            assert queues.wait(5.0)
            logged = [*map(parsed, chain.from_iterable(map(decoded, queues.take(9))))]
        state = SharedState(ENTRIES)
        champion = {"folder": "gone", "bundle_version": "a", "model_version": ""}
        state.write(TARGET, {"serial": 1, "champion": champion, "canary": None})
        state.write(SERVED_LOG, {"rows": 0, "lost": 4, "bytes": 0, "last_error": "full"})
        status = ServiceStatus(state, SharedMetrics(1), log_queues=queues)
        readings = dict(status.metrics())
    assert [answer.request_id for _, answer in logged] == [each.request_id for each in answers[2:]]
    assert readings[LOG_FAILED] == [([], 1.0)]
    assert readings[LOG_DROPPED] == [(["behind"], 0), (["disk"], 4), (["error"], 2)]
    assert caplog.text.count("Traceback") == 1


def test_more_cannot_be_explored_than_is_logged() -> None:
    with pytest.raises(ValueError, match=r"explore_share: expected at most --served-log-share 0.1"):
        ServedLogConfig(Path(), explore_share=0.2)


def test_answers_to_default_searches_can_be_compared_with_those_of_training(
    hybrid: Path, watched: Path
) -> None:
    """One that is explored, or of popular items because nothing is known in the query, cannot."""
    others: list[dict[str, Any]] = [
        {"filter": where.section == "section 1"},
        {"exclude": ["item-001"]},
        {"fusion": FusionMode.DENSE},
        {"min_score": 0.1},
    ]
    with logging(hybrid) as (client, rows):
        client.search("bavuti", k=3)
        client.search_batch(["bavuti"] * 2)
        for options in others:
            client.search("bavuti", **options)
        default, changed = [query.comparable for query, _ in rows()], [False] * len(others)
    assert default == [True] * 3 + changed
    with logging(hybrid, explore_share=1.0, explore_top=6) as (client, rows):
        client.search("bavuti")
        ((query, _),) = rows()
    assert not query.comparable
    with logging(watched) as (client, rows):
        client.search(Query())
        client.search(Query(history=("item-001",)))
        popular, known = rows()
    assert (popular[1].basis, popular[0].comparable) == (wire.BASIS_POPULAR, False)
    assert known[0].comparable
    assert to_table(serialized([popular, known]), str)["comparable"].to_pylist() == [False, True]


def test_a_query_is_measured_for_drift_and_its_text_is_not_kept(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A query that is an item has no text, and a bundle without a reference has no measures."""
    vectors = Retriever.load(tiny_bundle(tmp_path / "plain")).encode([Query("bavuti xanadu")]).vectors
    empty = np.empty((0, 0), np.float32)
    directions = np.eye(2, vectors.shape[1], dtype=np.float32)
    reference = DriftReference(
        empty, empty, empty, empty, np.empty(0, np.int64), word_bits(["bavuti"]), directions, {}
    )
    folder = tiny_bundle(tmp_path / "known", drift=reference)
    monkeypatch.setattr(sampling, "MOST_MEASURED", 400)
    with logging(folder, RequestLimits(max_batch=400)) as (client, rows):
        client.search_batch(["bavuti"] * 400, k=1)
        measured = sum(query.measures is not None for query, _ in rows())
    assert 10 < measured < 100, "about a tenth of all queries"
    monkeypatch.setattr(sampling, "MOST_MEASURED", 3)
    with logging(folder, RequestLimits(max_batch=400)) as (client, rows):
        client.search_batch(["bavuti"] * 400, k=1)
        assert sum(query.measures is not None for query, _ in rows()) == 3
    monkeypatch.setattr(sampling, "MEASURED", 1.0)
    with logging(folder) as (client, rows):
        client.search("bavuti xanadu")
        client.search(Query(item_id="item-003"))
        logged = rows()
    table = to_table(serialized(logged), str)
    of_text, of_item = table["measures"].to_pylist()
    assert of_text == pytest.approx([13.0, 0.5, *vectors[0, :2].tolist()], abs=1e-5)
    assert of_item is None
    assert "xanadu" not in str(table.to_pylist())
    with logging(tmp_path / "plain" / next((tmp_path / "plain").iterdir()).name) as (client, rows):
        client.search("bavuti")
        ((query, _),) = rows()
    assert query.measures is None
