"""Live items take part in the fused search, by the statistics of the bundle."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.lexical import HYBRID, lexical_score, weights_of_texts
from tests.helpers.serving.live import LiveWorld
from tests.helpers.tiny import FILTERS, item_ids, item_names, tiny_bundle
from twinspire.protos import retrieval_pb2 as wire
from twinspire.protos.bundle import Hybrid
from twinspire.serving.retrieval.answer import Answer, FusionMode, Timing
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.response_bytes import ResponseWriter
from twinspire.serving.segments.growing_columns import GrowingPostings
from twinspire.serving.segments.packed_items import EncodedItemsDamaged, PackedItems

ITEMS = 300
NAMES = item_names(ITEMS)
# All items are candidates, so that the truth is known.
WIDE = Hybrid(HYBRID.analyzer, HYBRID.k1, HYBRID.b, HYBRID.mean_length, 0.4, 1000, 1000, 10**6)
IDF, _ = weights_of_texts(NAMES, HYBRID)


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    parent = tmp_path_factory.mktemp("hybrid")
    return tiny_bundle(parent, ITEMS, filters=FILTERS, is_hybrid=True, hybrid=WIDE)


def weights_of(text: str) -> dict[str, float]:
    """The weight of each known word of a text, by the statistics of the bundle."""
    tokens = HYBRID.analyzer.tokens(text)
    rest = HYBRID.k1 * (1 - HYBRID.b + HYBRID.b * len(tokens) / HYBRID.mean_length)
    counts = Counter(tokens)
    return {word: IDF[word] * times / (times + rest) for word, times in counts.items() if word in IDF}


def best_by_hand(world: LiveWorld, texts: Mapping[str, str], query: str) -> dict[str, float]:
    """Item id -> fused score, of all items as they stand."""
    (vector,) = world.base.encode([Query(query)]).vectors
    words = HYBRID.analyzer.tokens(query)
    return {
        item_id: float(0.6 * (own @ vector) + 0.4 * lexical_score(IDF, weights_of(texts[item_id]), words))
        for item_id, own in world.truth.items()
    }


def check(world: LiveWorld, texts: Mapping[str, str], query: str, k: int = 10) -> Answer:
    truth = best_by_hand(world, texts, query)
    (answer,) = world.live.retriever.search([Query(query)], k)
    assert answer.fusion is FusionMode.HYBRID
    scores = [hit.score for hit in answer.hits]
    np.testing.assert_allclose(scores, sorted(truth.values(), reverse=True)[:k], atol=3e-6)
    np.testing.assert_allclose(scores, [truth[hit.id] for hit in answer.hits], atol=3e-6)
    for hit in answer.hits:
        assert hit.score == pytest.approx(0.6 * (hit.dense or 0) + 0.4 * (hit.lexical or 0), abs=3e-6)
    return answer


def test_written_items_are_ranked_as_all_others(wide: Path, tmp_path: Path) -> None:
    world, rng = LiveWorld(wide, tmp_path), np.random.default_rng(0)
    texts = dict(zip(item_ids(ITEMS), NAMES, strict=True))
    vocabulary = [*IDF]
    for turn in range(6):
        for _ in range(25):
            item_id = f"item-{rng.integers(0, 330):03}"
            if rng.random() < 0.3:
                world.delete(item_id)
                texts.pop(item_id, None)
            else:
                texts[item_id] = " ".join(rng.choice([*vocabulary, "unknownword"], rng.integers(1, 12)))
                world.put(item_id, texts[item_id])
        if turn == 3:  # another worker reads all of it at once
            world.encoder.run_once(world.feed.position())
            world.live = world.open()
        assert not world.sync()
        for _ in range(15):
            known = texts[str(rng.choice([*texts]))].split()
            check(world, texts, " ".join(rng.choice([*known, *rng.choice(vocabulary, 2)], 4)))


def test_a_changed_text_with_the_same_vector_is_found_by_its_words(wide: Path, tmp_path: Path) -> None:
    """The tiny tower counts letters, so the order of the words is nothing to it, but the words are."""
    world = LiveWorld(wide, tmp_path)
    words = NAMES[7].split()
    joined = "".join(words)
    world.put("new", joined)
    world.sync()
    (before,) = world.live.retriever.search([Query(words[0])], 500, fusion=FusionMode.LEXICAL)
    world.put("new", " ".join(words))
    world.sync()
    (after,) = world.live.retriever.search([Query(words[0])], 500, fusion=FusionMode.LEXICAL)
    assert "new" not in {hit.id for hit in before.hits}
    assert "new" in {hit.id for hit in after.hits}


def test_answers_hold_the_parts_of_live_items(wide: Path, tmp_path: Path) -> None:
    world = LiveWorld(wide, tmp_path)
    world.put("new", NAMES[3], name="a name")
    world.sync()
    retriever = world.live.retriever
    encoded = retriever.encode([Query(NAMES[3])])
    (found,) = retriever.find(encoded, [retriever.search_options(4)])
    packed = ResponseWriter(PackedItems(world.base.built.catalogue, parts=2), world.live.segment)
    response = wire.SearchResponse.FromString(packed.response(found, "version", Timing()))
    assert {hit.id for hit in response.hits} >= {"new", "item-003"}
    shown = [(hit.score, hit.dense, hit.lexical) for hit in response.hits]
    np.testing.assert_allclose(
        shown, [*zip(found.scores, found.dense, found.lexical, strict=True)], rtol=1e-6
    )
    new = next(hit for hit in response.hits if hit.id == "new")
    assert dict(new.fields) == {"name": "a name"}
    assert retriever.items.fields(retriever.items.rows(["new"]).pop()) == {"name": "a name"}


def test_the_postings_of_many_live_items_are_bounded(tmp_path: Path) -> None:
    """A word that more live items hold than are looked through is only looked up for the candidates."""
    narrow = Hybrid(HYBRID.analyzer, HYBRID.k1, HYBRID.b, HYBRID.mean_length, 0.4, 5, 5, 10)
    world = LiveWorld(tiny_bundle(tmp_path, ITEMS, is_hybrid=True, hybrid=narrow), tmp_path)
    common, rare = NAMES[0].split()[0], NAMES[1].split()[0]
    for n in range(40):
        world.put(f"new-{n:02}", f"{common} {rare}" if n < 3 else common)
    world.sync()
    (answer,) = world.live.retriever.search([Query(f"{common} {rare}")], 200, fusion=FusionMode.LEXICAL)
    found = [hit for hit in answer.hits if hit.id.startswith("new")]
    assert {"new-00", "new-01", "new-02"} <= {hit.id for hit in found}
    expected = lexical_score(IDF, weights_of(f"{common} {rare}"), [common, rare])
    assert max(hit.lexical or 0 for hit in found) == pytest.approx(expected, abs=1e-6)


def test_terms_that_are_not_whole_are_refused() -> None:
    postings = GrowingPostings()
    with pytest.raises(EncodedItemsDamaged, match="7 bytes"):
        postings.add(0, b"1234567")
    assert len(postings.of(0)[0]) == 0
