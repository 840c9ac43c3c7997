"""What `mteb` asks of an encoder, with real bundles: batches, texts, documents in; vectors, scores out."""

import sys
from enum import Enum
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from export.encoding import encode_all
from export.evaluation.mteb_encoder import BundleEncoder
from export.onnx.runtimes import onnx_encoder
from protos import bundle
from protos.errors import MissingStage
from protos.features import Side
from tests.helpers.stdlib import Made
from tests.helpers.tiny import watched_bundle
from train.data.training_data import training_data_of

TEXTS = ["read a CSV file", "", "Zeitzonen umrechnen", "split a path " * 40]


class PromptType(Enum):
    """As in `mteb`."""

    query = "query"
    document = "document"


@pytest.fixture(scope="module")
def encoder(made_once: Made) -> BundleEncoder:
    return BundleEncoder(str(made_once.folder), "main", device="cpu", threads=1)


def expected(made: Made, side: Side, texts: list[str], console: Console) -> np.ndarray:
    tower = onnx_encoder(made.folder / bundle.TOWERS[side])
    return encode_all(tower, bundle.read(made.folder).schema.side(side), {"text": texts}, console, "texts")


def test_queries_and_documents_go_through_their_own_towers(
    encoder: BundleEncoder, made: Made, console: Console
) -> None:
    query, item = (expected(made, side, TEXTS, console) for side in ("query", "item"))
    batches = [{"text": TEXTS[:3], "id": ["1", "2", "3"]}, {"text": TEXTS[3:], "id": ["4"]}]
    task = {"task_metadata": None, "hf_split": "test", "hf_subset": "default", "batch_size": 32}
    asked = encoder.encode(batches, prompt_type=PromptType.query, **task)
    held = encoder.encode(batches, prompt_type=PromptType.document, **task)
    np.testing.assert_array_equal(asked, query)
    np.testing.assert_array_equal(held, item)
    assert not np.allclose(asked, held)
    np.testing.assert_array_equal(encoder.encode(batches, **task), query)  # of no kind
    # Version 1: lists of texts, and `passage`.
    np.testing.assert_array_equal(encoder.encode(TEXTS, task_name="x", prompt_type="query"), query)
    np.testing.assert_array_equal(encoder.encode(TEXTS, task_name="x", prompt_type="passage"), item)
    np.testing.assert_array_equal(encoder.encode_queries(TEXTS, batch_size=2), query)
    assert encoder.encode([], prompt_type="query").shape == (0, encoder.manifest.dimension)


def test_titles_are_read_with_the_text(encoder: BundleEncoder, made: Made, console: Console) -> None:
    item = expected(made, "item", ["csv.reader Read rows.", "Split paths."], console)
    documents = [{"title": "csv.reader", "text": "Read rows."}, {"title": "", "text": "Split paths."}]
    np.testing.assert_array_equal(encoder.encode_corpus(documents), item)
    columns = {"title": ["csv.reader", ""], "text": ["Read rows.", "Split paths."]}
    np.testing.assert_array_equal(encoder.encode_corpus(columns), item)
    # Version 2 has joined them already.
    batch = {"text": ["csv.reader Read rows.", "Split paths."], "body": ["Read rows.", "Split paths."]}
    np.testing.assert_array_equal(encoder.encode([batch], prompt_type="document"), item)


def test_similarity_ranks_as_the_bundle_does(encoder: BundleEncoder, made: Made) -> None:
    data = training_data_of(made.dataset, made.experiment.query, made.experiment.item)
    rows, relevant = data.parts["test"].by_query()
    texts = [data.queries["text"][row] for row in rows]
    documents = encoder.encode(list(data.items["text"]), prompt_type="document")
    scores = encoder.similarity(encoder.encode(texts, prompt_type="query"), documents)
    assert scores.shape == (len(texts), data.item_count)
    best = scores.topk(10).indices.numpy()  # mteb takes a tensor
    recall = np.mean([np.isin(items, found).mean() for items, found in zip(relevant, best, strict=True)])
    assert recall == pytest.approx(bundle.read(made.folder).quality["exact_recall_at_10"], abs=0.02)
    pairs = encoder.similarity_pairwise(documents[:5], documents[5:10])
    square = encoder.similarity(documents[:5], documents[5:10])
    np.testing.assert_allclose(pairs, square.diagonal(), atol=1e-6)
    assert encoder.similarity(documents[0], documents[:2]).shape == (1, 2)


def test_the_bundle_describes_itself(encoder: BundleEncoder, made: Made) -> None:
    manifest, found = bundle.read(made.folder), encoder.description()
    assert (found["name"], found["revision"]) == ("twinspire/stdlib", manifest.bundle_version)
    assert (found["embed_dim"], found["max_tokens"]) == (64, 256)
    assert found["similarity_fn_name"] == "cosine"
    size = sum((made.folder / name).stat().st_size for name in bundle.TOWERS.values())
    assert found["memory_usage_mb"] == pytest.approx(size / 2**20)


def test_a_bundle_of_histories_is_refused(tmp_path: Path) -> None:
    with pytest.raises(MissingStage, match="its query tower reads no text"):
        BundleEncoder(watched_bundle(tmp_path))


def test_mteb_is_needed_for_the_description_alone(
    encoder: BundleEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "mteb", None)
    with pytest.raises(MissingStage, match="the description of a model needs mteb: pip install mteb"):
        _ = encoder.mteb_model_meta
