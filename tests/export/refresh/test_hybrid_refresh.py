"""A refresh of a hybrid bundle keeps the weights of unchanged items; others follow from its statistics."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest

from tests.helpers.lexical import HYBRID, lexical_score, weights_of_texts
from tests.helpers.refreshing import World, gone, item
from tests.helpers.tiny import item_ids, item_names
from twinspire.protos import bundle
from twinspire.serving.retrieval.answer import FusionMode
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever

pytestmark = [pytest.mark.filterwarnings("ignore::Warning:mlflow"), pytest.mark.exhaustive]

NAMES = item_names(60)
IDF, _ = weights_of_texts(NAMES, HYBRID)


def check(folder: Path, texts: dict[str, str]) -> None:
    """BM25 alone finds the items of these texts, by the statistics of the first bundle."""
    retriever = Retriever.load(folder)
    assert {*retriever.built.catalogue.ids} == {*texts}
    for query in [*NAMES[:8], *(text[:64] for text in texts.values() if text not in NAMES)]:
        words = HYBRID.analyzer.tokens(query)
        expected = {}
        for item_id, text in texts.items():
            tokens = HYBRID.analyzer.tokens(text)
            rest = HYBRID.k1 * (1 - HYBRID.b + HYBRID.b * len(tokens) / HYBRID.mean_length)
            weights = {w: IDF[w] * n / (n + rest) for w, n in Counter(tokens).items() if w in IDF}
            if (score := lexical_score(IDF, weights, words)) > 0:
                expected[item_id] = score
        (answer,) = retriever.search([Query(query)], k=60, fusion=FusionMode.LEXICAL)
        found = {hit.id: hit.lexical for hit in answer.hits}
        assert found == pytest.approx(expected, abs=1e-6)


def test_written_changed_and_deleted_items_are_in_the_lexical_index(world: World) -> None:
    champion = world.release(is_hybrid=True)
    texts = dict(zip(item_ids(60), NAMES, strict=True))
    check(champion, texts)
    first, second = NAMES[7].split()[0], NAMES[9].split()[0]
    texts |= {"lamp": f"{first} {second} {first} new", "item-003": second}
    del texts["item-005"]
    world.write(item("lamp", texts["lamp"]), item("item-003", second), gone("item-005"))
    done = world.refresh()
    assert done["bundle"]
    manifest, before = bundle.read(Path(done["bundle"])), bundle.read(champion)
    assert manifest.hybrid == before.hybrid
    for name in ("terms", "idf"):
        path = bundle.LEXICAL_FILES[name]
        assert manifest.files[path] == before.files[path]  # frozen
    check(Path(done["bundle"]), texts)


def test_a_text_that_differs_only_for_the_lexical_index_is_read_again(world: World) -> None:
    """The tower reads 64 characters; the lexical index reads the whole text."""
    world.release(is_hybrid=True)
    texts = dict(zip(item_ids(60), NAMES, strict=True))
    long = f"{'x' * 70} {NAMES[1].split()[0]}"
    for text in (long, f"{long} {NAMES[2].split()[0]}"):
        texts["lamp"] = text
        world.write(item("lamp", text))
        done = world.refresh()
        assert done["bundle"]
        assert done["encoded"] == 1
        check(Path(done["bundle"]), texts)


def test_priors_belong_to_ids(world: World) -> None:
    """Items whose text has changed keep them; deleted items lose them, and those after them move."""
    priors = {"nothing known": {3: 0.5, 5: 0.25, 40: 0.125}}
    world.release(is_hybrid=True, hybrid=replace(HYBRID, prior_weight=0.8), priors=priors)
    world.write(item("item-003", NAMES[9]), gone("item-005"), item("lamp", NAMES[8]))
    done = world.refresh()
    assert done["bundle"]
    (answer,) = Retriever.load(Path(done["bundle"])).search([Query("Nothing  known")], k=60)
    found = {hit.id: hit.prior for hit in answer.hits if hit.prior}
    assert found == {"item-003": 0.5, "item-040": 0.125}
