"""A tiny pretrained encoder through training, export, a bundle, and a real server."""

import dataclasses
import json
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import mlflow
import numpy as np
import pytest
import torch

from tests.helpers.answers import differences
from tests.helpers.pretrained import (
    MAX_TOKENS,
    WIDTH,
    needs_tokenizers,
    needs_transformers,
    texts_of_many_scripts,
    write_experiment,
)
from tests.helpers.serving.cataloguing import catalogue_service, first
from tests.helpers.serving.loopback import client_of
from tests.helpers.stdlib import Made, make_of, shared_made, tracking_at
from twinspire.protos import bundle
from twinspire.protos.errors import PackageMissing
from twinspire.protos.features import Schema, Side, TextFeature
from twinspire.protos.files.tokenizer import TOKENIZER
from twinspire.serving.client import Item, RetrievalClient
from twinspire.serving.retrieval.encoder import Encoder, item_encoder
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.server import RetrievalServer
from twinspire.train.paths import ROOT
from twinspire.train.training.trained_model import load_model

pytestmark = [needs_tokenizers(), needs_transformers(), pytest.mark.exhaustive]
TEXTS = ("read a file", "Ελληνικά русский 搜索 引擎", "a " * 200, "naïve café \ud83d", "[SEP] [CLS]", "x")
Factory = pytest.TempPathFactory


def made_of(factory: Factory, stdlib: Path, empty_store: Path, name: str, **tower: object) -> Made:
    def make(folder: Path) -> Made:
        return make_of(write_experiment(folder, stdlib, name, **tower), empty_store, folder)

    return shared_made(factory, name, make)


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: Factory, stdlib: Path, empty_store: Path) -> Made:
    """The encoder on both sides, frozen."""
    return made_of(tmp_path_factory, stdlib, empty_store, "pretrained-both")


@pytest.fixture(scope="module")
def retriever(pretrained: Made) -> Retriever:
    return Retriever.load(pretrained.folder)


@pytest.fixture(scope="module")
def client(retriever: Retriever) -> Iterator[RetrievalClient]:
    with RetrievalServer(retriever) as server, RetrievalClient(server.address, timeout=30) as client:
        yield client


def torch_vectors(made: Made, side: Side, values: Mapping[str, list[str]]) -> np.ndarray:
    """Vectors by the trained towers as the run keeps them, in torch."""
    with tracking_at(made.uri):
        model = load_model(made.run)
    arrays = model.schema.side(side).to_arrays(values)
    with torch.inference_mode():
        tower = model.towers[side == "item"]
        return np.asarray(tower({name: torch.from_numpy(each) for name, each in arrays.items()}))


def test_the_run_says_model_licence_and_tokens(pretrained: Made) -> None:
    tag = pretrained.run.data.tags["pretrained_model"]
    assert "up to 24 tokens of a text; licence apache-2.0; frozen, on the query side and item side" in tag
    assert pretrained.run.data.params["query.text.max_length"] == str(MAX_TOKENS)
    assert pretrained.run.data.params["item.text.input"] == "tokens"
    with tracking_at(pretrained.uri):
        run = pretrained.run.info.run_id
        chosen = mlflow.artifacts.load_dict(f"runs:/{run}/chosen_from_data.json")
    assert chosen["item.text.max_length"]["reason"].startswith("tokens, as many as mini reads; ")
    assert not chosen["item.text.max_length"]["reason"].endswith("; 0.0% of the texts are cut")


def test_the_bundle_holds_the_tokenizer_as_a_file_of_the_features(pretrained: Made) -> None:
    manifest = bundle.read(pretrained.folder)
    assert manifest.schema.files() == (TOKENIZER,)
    assert (pretrained.folder / TOKENIZER).read_bytes() == (
        pretrained.config.parent / "mini" / TOKENIZER
    ).read_bytes()
    assert manifest.dimension == WIDTH
    assert not [name for name in manifest.files if name.endswith((".safetensors", "config.json"))]


@pytest.mark.parametrize("side", ["query", "item"])
def test_torch_and_onnx_runtime_agree(pretrained: Made, side: Side) -> None:
    report = bundle.read(pretrained.folder).parity[side]
    assert report["max_abs_diff"] <= report["tolerance"] <= 1e-4
    encoder = Encoder(pretrained.folder, bundle.read(pretrained.folder), side=side)
    plain = bundle.read(pretrained.folder).precision
    bound = 1e-5 if {plain.query, plain.item} == {"fp32"} else 2e-2  # tables in a lower precision
    found = encoder.vectors(encoder.arrays([{"text": text} for text in TEXTS]))
    np.testing.assert_allclose(found, torch_vectors(pretrained, side, {"text": [*TEXTS]}), atol=bound)


def test_the_service_reads_the_tokens_of_training(pretrained: Made) -> None:
    """2,000 texts: of training from the model's folder, of the service from its bundle, one by one."""
    texts = texts_of_many_scripts(2_000)
    manifest = bundle.read(pretrained.folder)
    encoder = Encoder(pretrained.folder, manifest)
    spec = manifest.schema.query["text"]
    assert isinstance(spec, TextFeature)
    trained = spec.converters("text", {}, pretrained.config.parent / "mini")["text"]
    different = []
    for text in texts:
        served = encoder.arrays([{"text": text}])["text"]
        if not np.array_equal(served, trained([text], "text")):
            different.append(ascii(text))
    assert different == []


def test_a_server_answers_one_query_and_many_alike(client: RetrievalClient, retriever: Retriever) -> None:
    texts = [text.encode("utf-8", "replace").decode() for text in TEXTS]
    many = client.search_batch(texts, k=5)
    assert {len(answer.hits) for answer in many} == {5}
    assert differences([client.search(text, k=5) for text in texts], many) == []
    assert differences(retriever.search([Query(text=texts[0])], 5), many[:1]) == []


@pytest.mark.parametrize("text", ["", "\n"])
def test_an_empty_text_finds_no_arbitrary_items(client: RetrievalClient, text: str) -> None:
    answer = client.search(text, k=3)
    assert (answer.hits, str(answer.basis)) == ((), "none")


def test_a_new_item_gets_the_vector_of_training(pretrained: Made) -> None:
    manifest = bundle.read(pretrained.folder)
    encode = item_encoder(pretrained.folder, manifest)
    items = [Query(features={"text": text}) for text in TEXTS]
    expected = torch_vectors(pretrained, "item", {"text": [*TEXTS]})
    np.testing.assert_allclose(encode(items), expected, atol=2e-2)


def test_serving_does_without_torch_and_transformers(pretrained: Made) -> None:
    code = (
        "import sys; [sys.modules.__setitem__(name, None) for name in ('torch', 'transformers', 'mlflow')]; "
        "from pathlib import Path; from twinspire.serving.retrieval.retriever import Retriever; "
        "from twinspire.serving.retrieval.query import Query; "
        f"retriever = Retriever.load(Path({str(pretrained.folder)!r})); "
        "print(len(retriever.search([Query(text='read a file')], 3)[0].hits))"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert (found.returncode, found.stdout.strip()) == (0, "3"), found.stderr


def test_without_tokenizers_the_error_names_the_extra(
    pretrained: Made, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "bundle").symlink_to(pretrained.folder)  # another path, so that no open tokenizer is found
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(PackageMissing, match=r"pip install 'twinspire\[tokens\]'"):
        Retriever.load(tmp_path / "bundle")


def test_the_registered_model_names_the_tokenizer_package(pretrained: Made) -> None:
    from twinspire.export.release import registry

    manifest = bundle.read(pretrained.folder)
    assert registry._packages(manifest) == (*registry.RUNTIME, "tokenizers")
    hashed = TextFeature("text", "text", 9)
    schema = Schema({"text": hashed}, {"text": hashed})
    assert registry._packages(dataclasses.replace(manifest, schema=schema)) == registry.RUNTIME


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
def test_two_workers_encode_new_items_with_the_tokenizer(pretrained: Made, tmp_path: Path) -> None:
    """Workers are forks of a process that has opened the tokenizer already."""
    text = "convert images between twenty formats"
    with catalogue_service(pretrained.folder, f"sqlite:///{tmp_path / 'items.db'}", tmp_path) as service:
        assert len(service.worker_pids()) == 2
        with service.client() as client:
            written = client.upsert([Item("new", {"text": text})])
        for _ in range(4):  # each connection reaches one of the workers
            with service.client() as client:
                assert first(client, text, written.sequence) == "new"
        assert service.stop() == 0
        assert "forked" not in service.log


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
def test_a_hashed_query_side_reads_no_tokens_and_items_are_read_both_ways(
    tmp_path_factory: Factory, stdlib: Path, empty_store: Path
) -> None:
    made = made_of(
        tmp_path_factory, stdlib, empty_store, "asymmetric", query="hashed", buckets=4096, align_epochs=5
    )
    manifest = bundle.read(made.folder)
    assert manifest.schema.query["text"].input == "code_points"  # type: ignore[union-attr]
    assert manifest.schema.item["text"].input == "both"  # type: ignore[union-attr]
    assert manifest.letters
    encoder = Encoder(made.folder, manifest)
    texts = [text.encode("utf-8", "replace").decode() for text in TEXTS[:4]]
    found = encoder.vectors(encoder.arrays([{"text": text} for text in texts]))
    np.testing.assert_allclose(found, torch_vectors(made, "query", {"text": texts}), atol=2e-2)
    report = manifest.parity["item"]
    assert report["max_abs_diff"] <= report["tolerance"]
    encode = item_encoder(made.folder, manifest)
    items = [Query(features={"text": text}) for text in TEXTS]
    vectors = encode(items)
    np.testing.assert_allclose(vectors, torch_vectors(made, "item", {"text": [*TEXTS]}), atol=2e-2)
    for item, vector in zip(items, vectors, strict=True):
        np.testing.assert_allclose(encode([item])[0], vector, atol=1e-5)
    one, other = encode([Query(features={"text": f"read a file {word}"}) for word in ("zyzzyva", "qwertz")])
    assert np.abs(one - other).max() > 0.05
    with client_of(made.folder) as client:
        assert len(client.search("read a file", k=3).hits) == 3
        assert client.search("", k=3).hits == ()


@pytest.mark.exhaustive
@pytest.mark.timeout(300)
def test_distilled_towers_leave_no_trace_of_the_teacher(
    tmp_path_factory: Factory, stdlib: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sides = {"query": "hashed", "item": "hashed"}
    made = made_of(tmp_path_factory, stdlib, empty_store, "distilled", buckets=4096, align_epochs=5, **sides)
    manifest = bundle.read(made.folder)
    assert manifest.schema.files() == ()
    assert TOKENIZER not in manifest.files
    assert "as the teacher of both sides" in made.run.data.tags["pretrained_model"]
    assert json.loads((made.folder / "reports" / "quality.json").read_text())
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    found = Retriever.load(made.folder).search([Query(text="read a file")], 3)[0]
    assert len(found.hits) == 3
