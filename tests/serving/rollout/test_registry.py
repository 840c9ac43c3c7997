"""A bundle in MLflow's registry: served from there, and answering inside `mlflow.pyfunc`."""

import os
import shutil
import subprocess
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from mlflow.exceptions import MlflowException

from tests.helpers.tiny import FILTERS, tiny_bundle
from tests.serving.conftest import ROOT
from twinspire.protos import bundle
from twinspire.protos.errors import MissingStage, Unavailable
from twinspire.protos.mlflow_keys import BUNDLE_VERSION
from twinspire.serving import bundles
from twinspire.serving.filters.expression import where
from twinspire.serving.pyfunc_model import BundleModel
from twinspire.serving.retrieval.answer import Answer, FusionMode
from twinspire.serving.retrieval.query import Query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.rollout import registry as rollout_registry

pytestmark = pytest.mark.filterwarnings("ignore")


@contextmanager
def quiet() -> Iterator[None]:
    """Without MLflow's warnings about itself, for which it lifts every filter."""
    with warnings.catch_warnings(record=True):
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="module")
def filtered(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with filter fields."""
    return tiny_bundle(tmp_path_factory.mktemp("filtered"), 60, filters=FILTERS)


@pytest.fixture(scope="module")
def registry(
    tmp_path_factory: pytest.TempPathFactory, empty_store: Path, full: Path, watched: Path, filtered: Path
) -> Iterator[str]:
    """The URI of a real registry that holds the full bundle as `tiny@champion`, and two others."""
    with quiet():
        import mlflow.pyfunc

    folder = tmp_path_factory.mktemp("registry")
    uri = f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", uri)
        patch.syspath_prepend(str(ROOT))
        client = mlflow.MlflowClient()
        experiment = client.create_experiment("tiny", f"{folder}/artifacts")
        asked: dict[str, tuple[Path, Any]] = {
            "tiny": (full, "a query"),
            "watched": (watched, {"history": ["item-001"]}),
            "filtered": (filtered, "a query"),
        }
        for name, (folder, query) in asked.items():
            with quiet(), mlflow.start_run(experiment_id=experiment):
                logged = mlflow.pyfunc.log_model(
                    name="bundle",
                    python_model=str(ROOT / "serving" / "pyfunc_model.py"),
                    artifacts={"bundle": str(folder)},
                    registered_model_name=name,
                    input_example=([query], {"k": 10, "exclude_history": False, "filter": "", "fusion": ""}),
                    pip_requirements=[],
                )
            version = str(logged.registered_model_version)
            client.set_model_version_tag(name, version, BUNDLE_VERSION, bundle.read(folder).bundle_version)
            client.set_registered_model_alias(name, "champion", version)
        yield uri


@pytest.fixture(scope="module")
def model(registry: str) -> Any:
    import mlflow

    with quiet():
        return mlflow.pyfunc.load_model("models:/tiny@champion")


def test_any_error_of_the_registry_is_an_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(model: str) -> None:
        raise TypeError(f"{model} is not subscriptable")

    monkeypatch.setattr(rollout_registry, "resolve", broken)
    answer = rollout_registry._answer("resolve", "models:/a@b")
    assert isinstance(answer, Unavailable)
    assert str(answer) == "the registry failed: TypeError('models:/a@b is not subscriptable')"


def test_the_champion_is_downloaded_whole_and_once(registry: str, full: Path, tmp_path: Path) -> None:
    folder = bundles.download("models:/tiny@champion", tmp_path)
    assert folder == tmp_path / full.name
    assert bundle.read(folder) == bundle.read(full)
    written = folder.stat().st_ino
    assert bundles.download("models:/tiny/1", tmp_path).stat().st_ino == written
    assert list(tmp_path.iterdir()) == [folder]


@pytest.mark.parametrize("model", ["models:/tiny@nobody", "models:/other/1", "nonsense"])
def test_a_model_that_is_not_there_is_missing(registry: str, tmp_path: Path, model: str) -> None:
    with pytest.raises(MissingStage, match=f"{model}: not in the registry"):
        bundles.download(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_without_a_store_the_message_says_what_comes_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))  # for the registry's process
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MissingStage, match=r"no registry at mlruns/mlflow\.db"):
        bundles.download("models:/tiny@champion", tmp_path)


def test_without_mlflow_the_message_says_so(tmp_path: Path) -> None:
    (tmp_path / "mlflow.py").write_text("raise ModuleNotFoundError")
    command = [sys.executable, "-m", "twinspire.serving", "serve", "--model", "models:/tiny@champion"]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(tmp_path), str(ROOT)])}
    done = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, env=environment, timeout=30)
    assert done.returncode == 1
    assert "MLflow, which is not installed here" in done.stderr


def test_the_newest_of_several_bundles_is_served(tmp_path: Path) -> None:
    with pytest.raises(MissingStage, match="holds no bundle; `make export` writes one"):
        bundles.newest(tmp_path)
    old = tiny_bundle(tmp_path, items=5)
    new = tiny_bundle(tmp_path, items=6)
    os.utime(old / bundle.MANIFEST, (1, 1))
    assert bundles.newest(tmp_path) == new
    os.utime(new / bundle.MANIFEST, (0, 0))
    assert bundles.newest(tmp_path) == old
    assert bundles.newest(new) == new


def documents(answer: Answer) -> list[dict[str, Any]]:
    """The hits as a model gives them: without the parts that only a hybrid bundle has."""
    return [
        {
            **{name: value for name, value in hit._asdict().items() if value is not None},
            "fields": dict(hit.fields),
            "basis": str(answer.basis),
            "weak": answer.weak,
        }
        for hit in answer.hits
    ]


def test_the_model_answers_as_the_retriever_does(model: Any, full_retriever: Retriever) -> None:
    found = model.predict(["bavuti xelike mopy", ""], params={"k": 3})
    answers = full_retriever.search([Query("bavuti xelike mopy"), Query("")], k=3)
    # Equal bits: both are one batch of two, in the same process.
    assert found == [documents(answer) for answer in answers]
    assert [len(hits) for hits in model.predict(["a"])] == [10]


def test_the_model_takes_features_and_data_frames(model: Any, full_retriever: Retriever) -> None:
    import pandas as pd

    table = pd.DataFrame({"text": ["a", "b"], "age": [30.0, None], "country": ["de", "fr"]})
    found = model.predict(table.to_dict("records"), params={"k": 2})
    queries = [
        Query("a", features={"age": 30.0, "country": "de"}),
        Query("b", features={"country": "fr"}),
    ]
    expected = [[hit.id for hit in each.hits] for each in full_retriever.search(queries, k=2)]
    assert [[hit["id"] for hit in hits] for hits in found] == expected
    assert model.predict(table[["text"]]) == model.predict(["a", "b"])


def test_the_model_takes_histories(registry: str, watched: Path) -> None:
    import mlflow
    import pandas as pd

    with quiet():
        model = mlflow.pyfunc.load_model("models:/watched@champion")
    histories = [["item-001", "item-002"], ["item-010"], []]  # one batch everywhere, hence equal bits
    retriever = Retriever.load(watched)
    for exclude_history in (False, True):
        answers = retriever.search(
            [Query(history=tuple(each)) for each in histories], k=5, exclude_history=exclude_history
        )
        expected = [documents(answer) for answer in answers]
        params = {"k": 5, "exclude_history": exclude_history}
        assert model.predict([{"history": each} for each in histories], params=params) == expected
        table = pd.DataFrame({"history": histories, "country": [None] * 3})
        assert model.predict(table.to_dict("records"), params=params) == expected
    with pytest.raises(MlflowException, match=r"queries\[0\]\.history: expected a list of item ids"):
        model.predict([{"history": "item-001"}])
    with pytest.raises(MlflowException, match=r'queries\[0\]\.history: .* strings, got 1; write "1"'):
        model.predict([{"history": [1, 2]}])


def test_the_model_ranks_by_the_scores_that_are_asked_for(registry: str, tmp_path: Path) -> None:
    folder = tiny_bundle(tmp_path, is_hybrid=True)
    context = SimpleNamespace(artifacts={"bundle": str(folder)})
    model = BundleModel()
    model.load_context(context)
    retriever = Retriever.load(folder)
    text = "bavuti xelike mopy"
    for name in ("", *FusionMode):
        (answer,) = retriever.search([Query(text)], k=5, fusion=FusionMode(name or "default"))
        assert model.predict(context, [text], {"k": 5, "fusion": name}) == [documents(answer)]
        assert "lexical" in documents(answer)[0]
    with pytest.raises(MlflowException, match="fusion: expected default, dense, lexical, hybrid, got 'both'"):
        model.predict(context, [text], {"fusion": "both"})


def test_the_model_finds_items_that_pass_a_filter(registry: str, filtered: Path) -> None:
    import mlflow

    with quiet():
        model = mlflow.pyfunc.load_model("models:/filtered@champion")
    retriever = Retriever.load(filtered)
    texts = ["bavuti xelike mopy", "kelimo"]
    for conditions, node in {
        "price < 20": where.price < 20,
        " price < 20 and section in ['section 1', 'section 2'] \n": (where.price < 20)
        & where.section.is_in(["section 1", "section 2"]),
        "price is null": where.price.is_absent(),
        "price > 100000": where.price > 100_000,
    }.items():
        answers = retriever.search([*map(Query, texts)], k=7, filter=node)
        expected = [documents(answer) for answer in answers]
        assert model.predict(texts, params={"k": 7, "filter": conditions}) == expected
    assert model.predict(texts, params={"filter": " \n"}) == model.predict(texts)
    with pytest.raises(MlflowException, match=r"filter.*the filter fields are price"):
        model.predict(texts, params={"filter": "cost < 3"})
    with pytest.raises(MlflowException, match="filter: character 9: expected a string in quotes, a number"):
        model.predict(texts, params={"filter": "price < cheap"})


def test_the_model_refuses_by_name(model: Any) -> None:
    with pytest.raises(MlflowException, match="k: expected at most 1000"):
        model.predict(["a"], params={"k": 5000})
    queries: list[Any] = [{"text": "a"}] * 70 + [{"text": "a", "colour": "red"}]
    with pytest.raises(MlflowException, match=r"queries\[70\]\.features\.colour: unknown feature"):
        model.predict(queries)
