"""A large overlay is searched in a graph of its own, and churn loses no item."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.rounding import factors
from tests.helpers.serving.live import LiveWorld
from tests.helpers.tiny import random_texts
from twinspire.serving.live.encoded_items import GRAPH_SUFFIX, folder_of
from twinspire.serving.live.encoding import graph_builder
from twinspire.serving.live.live_items import LiveItems
from twinspire.serving.retrieval.query import PLAIN, EncodedQueries, Query, SearchOptions
from twinspire.serving.segments import growing_graph as graphs


@pytest.fixture
def world(plain: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveWorld]:
    monkeypatch.setattr(graph_builder, "MIN_GRAPH_ITEMS", 512)
    world = LiveWorld(plain, tmp_path)
    yield world
    world.encoder.close()


def settled(world: LiveWorld) -> LiveItems:
    world.sync()
    world.encoder._graphs.wait()
    world.live = world.live.updated()
    return world.live


def found_first(world: LiveWorld, ids: list[str]) -> float:
    """The share of items that are the first answer to their own vector, or as good as the first."""
    vectors = np.array([world.truth[each] for each in ids], np.float32)
    good = 0
    for start in range(0, len(ids), 64):
        some = vectors[start : start + 64]
        encoded = EncodedQueries(some, (PLAIN,) * len(some), 0)
        for answer, vector in zip(
            world.live.retriever.search_encoded(encoded, SearchOptions(1)), some, strict=True
        ):
            good += answer.hits[0].score > float(vector @ vector) - 1e-5
    return good / len(ids)


def test_a_graph_covers_most_of_a_large_overlay(world: LiveWorld) -> None:
    for n, text in enumerate(random_texts(1000, 0)):
        world.put(f"new-{n}", text)
    live = settled(world)
    assert live.segment.graph is not None
    assert live.segment.graph.count == 1000
    for n, text in enumerate(random_texts(100, 1)):  # not in the graph, and some replace items in it
        world.put(f"new-{n * 7}", text)
    for n in range(0, 1000, 9):
        world.delete(f"new-{n}")
    live = settled(world)
    assert live.segment.graph is not None
    assert live.segment.graph.count == 1000
    queries = world.base.encode([*map(Query, random_texts(64, 2))])
    for k in (1, 10, 300):
        answers = live.retriever.search_encoded(queries, SearchOptions(k))
        for answer, vector in zip(answers, queries.vectors, strict=True):
            ids = [hit.id for hit in answer.hits]
            assert len(set(ids)) == len(ids) == k
            assert world.truth.keys() >= set(ids)
            best = world.expected(vector, k)
            shared = sum(hit.score >= best[-1] - 1e-5 for hit in answer.hits)
            assert shared >= 0.9 * k
            one = EncodedQueries(vector[None], (PLAIN,), 0)
            (alone,) = live.retriever.search_encoded(one, SearchOptions(k))
            assert sum(hit.score >= best[-1] - 1e-5 for hit in alone.hits) >= 0.9 * k
    assert found_first(world, [each for each in world.truth if each.startswith("new")]) >= 0.999


def test_a_new_generation_of_records_gets_a_new_graph(world: LiveWorld) -> None:
    for n, text in enumerate(random_texts(600, 0)):
        world.put(f"new-{n}", text)
    settled(world)
    folder = folder_of(world.place, world.origin)
    (before,) = folder.glob(f"*{GRAPH_SUFFIX}")
    for n in range(50):
        world.delete(f"new-{n}")
    world.sync()
    world.encoder._writer.compact()
    live = settled(world)
    (after,) = folder.glob(f"*{GRAPH_SUFFIX}")
    assert before != after
    assert live.segment.graph is not None
    assert live.segment.graph.count == live.segment.count == 550


def test_a_damaged_graph_is_not_used(world: LiveWorld) -> None:
    for n, text in enumerate(random_texts(600, 0)):
        world.put(f"new-{n}", text)
    settled(world)
    (path,) = folder_of(world.place, world.origin).glob(f"*{GRAPH_SUFFIX}")
    content = bytearray(path.read_bytes())
    content[20] ^= 255
    path.unlink()
    path.write_bytes(content)
    live = world.open()
    live.catch_up()
    live.follow_graph()
    assert live.segment.graph is None
    world.live = live
    assert found_first(world, [f"new-{n}" for n in range(600)]) == 1.0


def test_a_graph_that_is_being_built_is_given_up(world: LiveWorld) -> None:
    for n, text in enumerate(random_texts(600, 0)):
        world.put(f"new-{n}", text)
    world.encoder.run_once(world.feed.position())
    world.encoder._graphs.wait()
    folder = folder_of(world.place, world.origin)
    (graph,) = folder.glob(f"*{GRAPH_SUFFIX}")
    graph.unlink()
    stop = threading.Event()
    builder = graph_builder.GraphBuilder(
        world.encoder._writer.folder, world.origin, world.encoder.manifest, stop
    )
    stop.set()
    builder.check(600, 600, world.encoder._writer.generation)
    builder.wait()
    assert not graph.exists()


def test_few_items_that_are_written_often_have_no_graph(world: LiveWorld) -> None:
    """Most rows of the overlay are outdated then, and a graph would hold them too."""
    for seed in range(4):
        for n, text in enumerate(random_texts(300, seed)):
            world.put(f"new-{n}", text)
        assert settled(world).segment.graph is None
    assert world.live.segment.count == 1200
    assert found_first(world, [f"new-{n}" for n in range(300)]) == 1.0


@pytest.mark.parametrize("length", [1.0, 1e-5, 1e5])
def test_vectors_that_differ_by_rounding_are_copies_and_others_are_not(length: float) -> None:
    vectors = np.random.default_rng(0).standard_normal((100, 64)).astype(np.float32)
    vectors *= length / np.linalg.norm(vectors, axis=1, keepdims=True)
    vectors = np.concatenate([vectors, 2 * vectors])
    copies = graphs.CopyCounter()
    assert all(copies.count_and_admit(vector.tobytes()) for vector in vectors)
    rounded = vectors[0] * factors(1000, 64)
    assert len({vector.tobytes() for vector in rounded}) > 900
    assert sum(copies.count_and_admit(vector.tobytes()) for vector in rounded) == graphs.COPIES - 1


def test_some_equal_items_do_not_keep_the_others_from_having_a_graph(world: LiveWorld) -> None:
    for n, text in enumerate(random_texts(700, 0)):
        world.put(f"new-{n}", text)
        if n % 10 == 0:
            world.put(f"same-{n}", "bavuti")
    live = settled(world)
    assert live.segment.graph is not None
    assert live.segment.graph.count > 700 + graphs.COPIES
    for n in range(0, 700, 30):
        world.delete(f"same-{n}")
        world.delete(f"new-{n}")
    live = settled(world)
    same = [each for each in world.truth if each.startswith("same")]
    assert len(same) > 2 * graphs.COPIES
    for k in (1, len(same), 300):
        encoded = EncodedQueries(world.truth[same[0]][None], (PLAIN,), 0)
        (answer,) = live.retriever.search_encoded(encoded, SearchOptions(k))
        ids = [hit.id for hit in answer.hits]
        assert len({*ids}) == k
        assert world.truth.keys() >= {*ids}
        assert len({*ids} & {*same}) == min(k, len(same))
    assert found_first(world, [each for each in world.truth if not each.startswith("item")]) >= 0.999


def test_a_graph_that_cannot_be_built_is_tried_again_later(
    world: LiveWorld, monkeypatch: pytest.MonkeyPatch
) -> None:
    for n, text in enumerate(random_texts(600, 0)):
        world.put(f"new-{n}", text)
    tried: list[int] = []

    def fails(*arguments: object) -> None:
        tried.append(1)
        raise OSError("no space left")

    monkeypatch.setattr(graph_builder, "RETRY_SECONDS", 0.3)
    with monkeypatch.context() as patch:
        patch.setattr(graph_builder.GraphBuilder, "_write", fails)
        for _ in range(5):
            assert settled(world).segment.graph is None
    assert tried == [1]
    time.sleep(0.3)
    graph = settled(world).segment.graph
    assert graph is not None
    assert graph.count == 600


@pytest.mark.exhaustive
def test_churn_loses_no_item(plain: Path, tmp_path: Path) -> None:
    """As of https://github.com/chroma-core/chroma/issues/7758: write 4,000, delete half, write 30 % again."""
    world = LiveWorld(plain, tmp_path)
    draw = np.random.default_rng(0)
    ids = [f"new-{n}" for n in range(4000)]
    shares, searched = [], 0
    for turn in range(5):
        for item_id, text in zip(ids, random_texts(len(ids), 2 * turn), strict=True):
            world.put(item_id, text)
        settled(world)
        for item_id in draw.permutation(ids)[:2000]:
            world.delete(str(item_id))
        settled(world)
        for item_id, text in zip(draw.permutation(ids)[:1200], random_texts(1200, 2 * turn + 1), strict=True):
            world.put(str(item_id), text)
        live = settled(world)
        searched += live.segment.graph is not None  # small overlays have none
        there = [each for each in ids if each in world.truth]
        shares.append(found_first(world, there))
    assert searched >= 2
    assert min(shares) >= 0.999, shares
    world.encoder.close()
