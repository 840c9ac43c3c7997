"""Searches that get hits of champion and canary, and what of them the served log can say."""

import random
import threading
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.helpers.serving.live import MemoryFeed
from tests.helpers.serving.loopback import configured
from tests.helpers.tiny import filter_values, item_names, tiny_bundle, watched_bundle
from tests.helpers.waiting import wait_until
from twinspire.protos.errors import ConfigError
from twinspire.protos.events_pb2 import Event, RecordRequest
from twinspire.serving.client import Query, RetrievalClient, where
from twinspire.serving.events.store import EventStore
from twinspire.serving.events.user_histories import UserHistories
from twinspire.serving.live.live_items import LivePlace
from twinspire.serving.observability import layout
from twinspire.serving.observability.worker_metrics import SharedMetrics
from twinspire.serving.retrieval.query import InterleavedHits
from twinspire.serving.rollout import interleaving
from twinspire.serving.rollout.follower import FollowConfig
from twinspire.serving.rollout.interleaving import team_draft
from twinspire.serving.rollout.loaded_bundle import LoadedBundle, TrafficSplit
from twinspire.serving.server import RetrievalServer

FILTERS: Any = {"section": "string", "price": "number"}
TEXTS = item_names(30)


class Scene:
    """A server on two bundles that interleaves their answers, and what the served log could say of these."""

    def __init__(self, champion: LoadedBundle, challenger: LoadedBundle, share: float = 1.0) -> None:
        self.metrics = SharedMetrics(workers=1)
        self.bundles = champion, challenger
        follow = FollowConfig("models:/tiny@champion", interleave_share=share)
        self.server = RetrievalServer(champion, configured(follow=follow), metrics=self.metrics)
        self.logged: list[InterleavedHits | None] = []
        swapped = threading.Event()
        self.server.start()
        self.server.swap(TrafficSplit(champion, challenger, 0.0), swapped.set)
        assert swapped.wait(10)
        interleaver: Any = self.server._servicer._interleaver
        merge = interleaver.hits

        def hits(job: Any, *bundles: LoadedBundle) -> Any:
            found = merge(job, *bundles)
            self.logged.append(job.found[0].interleaved)
            return found

        interleaver.hits = hits
        self.client = RetrievalClient(self.server.address)
        self.client.wait_ready()

    def close(self) -> None:
        self.client.close()
        self.server.stop(5.0)

    def counts(self, both: int, champion: int) -> bool:
        """Whether these numbers of searches were answered by both bundles, and by the champion alone."""

        def are_counted() -> bool:
            (row,) = self.metrics.read()
            found = {name: row[cell] for name, cell in layout.INTERLEAVED.items()}
            return found == {"both": both, "champion": champion}

        wait_until(are_counted, 5)  # counted after the answer has been sent
        return True


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> tuple[LoadedBundle, LoadedBundle]:
    """The champion of 300 items, and a hybrid challenger of 200."""
    parent = tmp_path_factory.mktemp("two")
    first = LoadedBundle.load(tiny_bundle(parent, filters=FILTERS))
    return first, LoadedBundle.load(tiny_bundle(parent, 200, filters=FILTERS, is_hybrid=True))


@pytest.fixture
def scene(two: tuple[LoadedBundle, LoadedBundle]) -> Iterator[Scene]:
    made = Scene(*two)
    yield made
    made.close()


def test_an_answer_has_the_best_hits_of_both_bundles(scene: Scene) -> None:
    for text in TEXTS:
        answer = scene.client.search(text, k=10)
        hits = scene.logged[-1]
        assert hits is not None
        ids = [hit.id for hit in answer.hits]
        assert (ids, len(set(ids))) == (hits.item_ids, 10)
        assert (answer.bundle_version, hits.challenger) == tuple(each.version for each in scene.bundles)
        owns = [
            {hit.id: hit for hit in each.retriever.search([Query(text)], 10)[0].hits}
            for each in scene.bundles
        ]
        for hit, team in zip(answer.hits, hits.teams, strict=True):
            givers = owns if team is None else owns[team : team + 1]
            assert any(
                hit.id in own
                and own[hit.id].score == pytest.approx(hit.score, abs=1e-5)
                and own[hit.id].fields == hit.fields
                and (own[hit.id].lexical is None) == (hit.lexical is None)
                for own in givers
            )
    assert {team for hits in scene.logged if hits for team in hits.teams} == {0, 1, None}
    assert scene.counts(both=len(TEXTS), champion=0)


def test_filters_exclusions_and_the_least_score_hold_for_both(scene: Scene) -> None:
    items = zip(scene.bundles[0].retriever.built.catalogue.ids, filter_values(300), strict=True)
    prices = {item: values["price"] for item, values in items if "price" in values}
    for text in TEXTS[:10]:
        plain = scene.client.search(text, k=5)
        out = [hit.id for hit in plain.hits]
        answer = scene.client.search(text, k=10, exclude=out, filter=where.price < 50, min_score=0.1)
        assert scene.logged[-1] is not None
        for hit in answer.hits:
            assert prices[hit.id] < 50
            assert hit.id not in out
            assert hit.score >= 0.1


def test_an_error_of_the_challenger_leaves_the_champions_answer(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    champion, challenger = scene.bundles
    expected = champion.retriever.search([Query(item_id="item-250")], 5)[0]
    asked = scene.client.search(Query(item_id="item-250"), k=5)  # the challenger has no such item
    assert [hit.id for hit in asked.hits] == [hit.id for hit in expected.hits]

    def fail(*_: Any) -> None:
        raise RuntimeError("the graph is broken")

    monkeypatch.setattr(challenger.retriever, "find", fail)
    answer = scene.client.search(TEXTS[0], k=5)
    alone = champion.retriever.search([Query(TEXTS[0])], 5)[0]
    assert [hit.id for hit in answer.hits] == [hit.id for hit in alone.hits]
    assert scene.logged == [None, None]
    assert scene.counts(both=0, champion=2)
    assert caplog.text.count("fails in interleaved searches") == 1


def test_an_answer_whose_hits_are_too_large_together_is_counted_as_the_champions(scene: Scene) -> None:
    scene.server._servicer._interleaver._most = 1
    scene.client.search(TEXTS[0], k=5)
    assert scene.logged == [None]
    assert scene.counts(both=0, champion=1)
    scene.server._servicer._interleaver._most = 1 << 20
    scene.client.search(TEXTS[0], k=5)
    assert scene.counts(both=1, champion=1)
    assert scene.client.info().state["interleaving"] == {"share": 1.0, "answers": 1, "alone": 1}


def test_what_is_no_search_for_a_few_items_is_the_champions(scene: Scene) -> None:
    champion = scene.bundles[0]
    (batched,) = scene.client.search_batch([TEXTS[0]], k=5)
    many = scene.client.search(TEXTS[0], k=600)  # of both together it is no work for one batch
    for answer, k in ((batched, 5), (many, 600)):
        alone = champion.retriever.search([Query(TEXTS[0])], k)[0]
        assert {hit.id for hit in answer.hits} == {hit.id for hit in alone.hits}
    assert scene.logged == [None]
    assert scene.counts(both=0, champion=0)


@pytest.mark.parametrize("share", [0.0, 0.3])
def test_a_share_of_the_searches_is_interleaved(
    two: tuple[LoadedBundle, LoadedBundle], share: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(interleaving, "random", random.Random(3).random)
    scene = Scene(*two, share=share)
    try:
        for n in range(400):
            scene.client.search(TEXTS[n % len(TEXTS)], k=3)
        assert len(scene.logged) == pytest.approx(400 * share, abs=40 * (share > 0))
    finally:
        scene.close()


def test_a_bundle_on_another_server_is_not_interleaved(two: tuple[LoadedBundle, LoadedBundle]) -> None:
    champion, challenger = two
    interleaver = interleaving.Interleaver(1.0, 1 << 20)
    assert interleaver.challenger(TrafficSplit(champion)) is None
    assert interleaver.challenger(TrafficSplit(champion, challenger)) is challenger
    index = replace(challenger.manifest.index, kind="milvus")
    manifest: Any = SimpleNamespace(index=index, bundle_version="0" * 64, is_remote=True)
    remote = replace(challenger, retriever=cast(Any, SimpleNamespace(manifest=manifest)))
    assert interleaver.challenger(TrafficSplit(champion, remote)) is None
    interleaving.check_share(0.2, champion.manifest)
    interleaving.check_share(0.0, remote.manifest)
    with pytest.raises(ConfigError, match="expected a bundle whose index is in memory, got milvus"):
        interleaving.check_share(0.2, remote.manifest)


def test_each_bundle_reads_the_events_of_the_user(tmp_path: Path) -> None:
    champion, challenger = (LoadedBundle.load(watched_bundle(tmp_path, items)) for items in (300, 250))
    url = f"sqlite:///{tmp_path}/events.db"
    history = ("item-007", "item-100", "item-031")
    events = [Event(user="u7", item_id=each, type="click") for each in history]
    with closing(EventStore.open(url)) as store:
        store.record([RecordRequest(events=events)])
    scene = Scene(champion, challenger)
    histories = UserHistories(url, 100, 100, scene.server._call_soon)
    scene.server._servicer._resolve_users = histories.resolve
    try:
        answer = scene.client.search(Query(user="u7"), k=20)
        hits = scene.logged[-1]
        assert hits is not None
        found = [each.retriever.search([Query(history=history)], 20)[0] for each in scene.bundles]
        assert {hit.id for hit in answer.hits} <= {hit.id for each in found for hit in each.hits}
        assert scene.counts(both=1, champion=0)
    finally:
        histories.stop()
        scene.close()


def test_an_item_that_was_just_written_or_deleted_is_so_for_both(plain: Path, tmp_path: Path) -> None:
    feed = MemoryFeed()
    place = LivePlace(tmp_path, lambda: {"store_id": feed.store_id, "sequence": feed.sequence()})
    folders = plain, tiny_bundle(tmp_path, 250)
    encoders = [feed.encoder(folder, tmp_path) for folder in folders]
    for each in encoders:
        each.run_once(feed.position())
    first, second = (LoadedBundle.load(folder).with_live(place) for folder in folders)
    scene = Scene(first, second)
    try:
        feed.put("new", {"text": "zozozozo"})
        sequence = feed.put("item-007")
        encoders[0].run_once(feed.position())
        later = threading.Timer(0.3, encoders[1].run_once, (feed.position(),))
        later.start()
        answer = scene.client.search("zozozozo", k=300, min_sequence=sequence)  # until both have applied it
        later.join()
        hits = scene.logged[-1]
        assert hits is not None
        assert (hits.item_ids[0], hits.teams[0]) == ("new", None)
        assert "item-007" not in {hit.id for hit in answer.hits}
        assert scene.counts(both=1, champion=0)
    finally:
        scene.close()


def test_teams_pick_in_turns_and_an_item_that_both_want_has_no_team() -> None:
    first, second = ["a", "b", "c", "d"], ["a", "x", "b", "y"]
    seen = set()
    rng = random.Random(0)
    for _ in range(200):
        picks = team_draft(first, second, 5, rng.random)
        ids = [(first, second)[each.team][each.place] for each in picks]
        assert len(set(ids)) == 5
        assert (ids[0], picks[0].counts) == ("a", False)
        for n in range(2, 5):  # rounds are of two picks, one by each team
            assert {each.team for each in picks[n - n % 2 : n - n % 2 + 2]} == {0, 1} or n == 4
        seen.add(tuple(ids))
    assert len(seen) > 4
    ended = team_draft(["a"], ["b", "c", "d"], 4, rng.random)
    assert [each.counts for each in ended] == [True, True, False, False]
    assert team_draft([], [], 3) == []


@pytest.mark.parametrize(
    ("first", "second"), [("x", "xy"), ("xy", "x"), ("xyz", "xyz"), ("xy", "xyzabc"), ("", "xy")]
)
def test_items_that_both_want_or_only_one_has_count_for_neither(first: str, second: str) -> None:
    rng = random.Random(0)
    for _ in range(50):
        picks = team_draft([*first], [*second], 6, rng.random)
        assert not any(each.counts for each in picks)
        assert [(first, second)[each.team][each.place] for each in picks] == [*max(first, second, key=len)]


def test_a_user_who_clicks_at_random_prefers_neither_team() -> None:
    rng = random.Random(1)
    at: dict[int, list[int]] = {}
    for _ in range(20_000):
        items = [str(n) for n in range(12)]
        first, second = rng.sample(items, 9), rng.sample(items[:9], 7)
        first[:2], second[:2] = (["s", "t"], ["s", "t"]) if rng.random() < 0.5 else (["s"], ["s"])
        for position, each in enumerate(team_draft(first, second, 8, rng.random)):
            if each.counts:
                at.setdefault(position, []).append(each.team)
    for position, teams in at.items():
        share = sum(teams) / len(teams)
        assert abs(share - 0.5) < 4 * 0.5 / len(teams) ** 0.5, position
