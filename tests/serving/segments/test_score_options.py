"""`min_score` and `weak` on every kind of segment: exact, a graph, a vector database, and live."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.helpers.answers import hits_of
from tests.helpers.serving.live import LiveWorld
from tests.helpers.tiny import FILTERS, item_names, tiny_bundle
from tests.helpers.vector_databases import ENGINES, empty_engine, publish
from twinspire.protos import bundle
from twinspire.protos.bundle import IndexParameters
from twinspire.protos.errors import InvalidInput
from twinspire.serving.filters.expression import where
from twinspire.serving.retrieval.answer import Basis, FusionMode
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever

ITEMS = 200
NAMES = item_names(ITEMS)
INDEXES = {
    "exact": IndexParameters("ip", 16, 100, 64, exact=True),
    "graph": IndexParameters("ip", 16, 200, 200),
}
WEAK = 0.75  # below it is the best score of words that no item holds, and above it that of an item's own
UNKNOWN = "zzzz qqqq"
KINDS = ["exact", "graph", "live", *ENGINES]


@pytest.fixture(scope="module", params=[True, False], ids=["hybrid", "dense"])
def is_hybrid(request: pytest.FixtureRequest) -> bool:
    return bool(request.param)


@pytest.fixture(scope="module", params=KINDS)
def retriever(
    request: pytest.FixtureRequest, is_hybrid: bool, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Retriever]:
    folder = tmp_path_factory.mktemp("scores")
    index = INDEXES.get(request.param, INDEXES["exact"])

    def make(index: IndexParameters) -> Path:
        return tiny_bundle(folder, ITEMS, filters=FILTERS, is_hybrid=is_hybrid, index=index, weak_score=WEAK)

    if request.param in (*INDEXES, "live"):
        made = make(index)
        yield written_again(made, folder) if request.param == "live" else Retriever.load(made)
        return
    if is_hybrid:
        pytest.skip("a bundle whose items are in a vector database has no lexical index")
    with empty_engine(request.param, request, folder) as engine:
        made = make(engine.index())
        publish(made, bundle.read(made))
        yield Retriever.load(made)


def written_again(made: Path, folder: Path) -> Retriever:
    """A bundle every other item of which is a live item."""
    world = LiveWorld(made, folder)
    for n in range(0, ITEMS, 2):
        world.put(f"item-{n:03}", NAMES[n])
    world.sync()
    return world.live.retriever


@pytest.mark.parametrize("query", [Query(NAMES[3]), Query(UNKNOWN), Query(item_id="item-004"), Query("")])
def test_hits_below_a_score_are_left_out(retriever: Retriever, query: Query) -> None:
    (whole,) = retriever.search([query], 30)
    scores = [hit.score for hit in whole.hits]
    for least in (-2.0, *scores[10:30:19], 0.0, 2.0):  # Milvus knows no popular items for an empty query
        (found,) = retriever.search([query], 30, min_score=least)
        assert hits_of(found) == [each for each in hits_of(whole) if each[1] >= least]
        assert found[1:2] + found[3:] == whole[1:2] + whole[3:]  # all but the hits and the times


@pytest.mark.parametrize("least", [float("nan"), float("inf"), -float("inf")])
def test_a_score_that_is_not_finite_is_refused(retriever: Retriever, least: float) -> None:
    with pytest.raises(InvalidInput, match="finite") as caught:
        retriever.search([Query(NAMES[3])], min_score=least, k=3)
    assert caught.value.field == "min_score"


def test_an_answer_without_a_good_hit_is_weak(retriever: Retriever) -> None:
    queries = [Query(NAMES[3]), Query(UNKNOWN), Query(""), Query(item_id="item-004")]
    for answers in (retriever.search(queries, 10), [retriever.search([each], 10)[0] for each in queries]):
        known, unknown, blank, item = answers
        assert known.hits[0].score > WEAK and not known.weak
        assert unknown.hits and unknown.weak
        popular = Basis.NONE if retriever.manifest.is_remote else Basis.POPULAR
        assert blank.basis is popular and blank.weak
        assert not item.weak  # learned of queries with a text alone
    assert not any(answer.weak for answer in retriever.search(queries[:1] + queries[3:], 10, min_score=2.0))


def test_only_hits_that_pass_the_filter_count(retriever: Retriever, is_hybrid: bool) -> None:
    (nothing,) = retriever.search([Query(NAMES[3])], 10, filter=where.price > 1e9)
    assert not nothing.hits and nothing.weak
    (rest,) = retriever.search([Query(NAMES[3])], 10, exclude=["item-003"])  # the letters match, no word does
    assert rest.weak is (rest.hits[0].score < WEAK) is is_hybrid


def test_words_that_no_item_holds_make_an_answer_of_a_hybrid_weak(tmp_path: Path) -> None:
    known, partly = Query(NAMES[3]), Query(f"{NAMES[3]} zzzz")
    (first, second) = Retriever.load(tiny_bundle(tmp_path, ITEMS, is_hybrid=True)).search([known, partly], 1)
    assert (first.weak, second.weak) == (False, False)  # the bundle has no such score
    least = min(first.hits[0].score, second.hits[0].score) - 0.01
    retriever = Retriever.load(tiny_bundle(tmp_path, ITEMS, is_hybrid=True, weak_score=least))
    (first, second) = retriever.search([known, partly], 1)
    assert (first.weak, second.weak) == (False, True)
    assert retriever.search([partly], 1, fusion=FusionMode.HYBRID)[0].weak
    for other in (FusionMode.DENSE, FusionMode.LEXICAL):  # whose scores are others
        assert not retriever.search([Query(UNKNOWN)], 1, fusion=other)[0].weak
