r"""A bundle as an MLflow model: MLflow runs this file when it loads the model, so nothing is pickled.

    log_model(
        python_model="serving/pyfunc_model.py",
        artifacts={"bundle": folder},
        input_example=(["a query"], PARAMETERS),  # MLflow infers the signature from it, and calls `predict`
    )
    model = mlflow.pyfunc.load_model("models:/shop@champion")
    model.predict(["a query"], params={"k": 5, "filter": "price < 50 and section in ['shoes', 'bags']"})

The parameters of `predict` are those that the example declares, such as

    PARAMETERS = {"k": 10, "exclude_history": True, "filter": "", "fusion": "", "min_score": LOWEST_SCORE}

It answers with the same `Retriever` as the service. Only MLflow imports this file.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import mlflow
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.model import PythonModel

from twinspire.protos.errors import InvalidInput, TwinspireError
from twinspire.protos.inputs.events import is_dated, without_times
from twinspire.protos.nearest.scores import LOWEST_SCORE
from twinspire.serving.filters.text import parse_filter
from twinspire.serving.retrieval.answer import Answer, FusionMode
from twinspire.serving.retrieval.query import Query, check_item_ids, example_query
from twinspire.serving.retrieval.retriever import Retriever
from twinspire.serving.wire.converters import RequestLimits

BATCH = 64  # queries that are encoded together, which limits memory


class BundleModel(PythonModel):
    """Answers queries from the bundle in the model's artifacts."""

    def load_context(self, context: Any) -> None:
        """Load and verify the bundle; called once by MLflow.

        Raises:
            BundleDamaged, BundleTooNew, BundleTooOld: as `Retriever.load` does.
        """
        self._retriever = Retriever.load(Path(context.artifacts["bundle"]))

    def predict(
        self, context: Any, model_input: list[Any], params: dict[str, Any] | None = None
    ) -> list[list[dict[str, Any]]]:
        """The items nearest to each query.

        Args:
            context: of the model; not used.
            model_input: each a text, or a dictionary of the query tower's features by name, where
                the text may always be called `text`, a list of item ids `history`, and the seconds since
                1970 of its events `history_times`, None for one that is not known. MLflow turns a
                data frame of one column into such a list; of a wider one, give
                `frame.to_dict("records")`.
            params: `k`, 10 if not given; `exclude_history`, whether the items of a query's history
                are left out of its answer, as the bundle was evaluated if not given; `filter`, a
                text as `serving.filters.text` describes, which all hits pass, none if not given;
                `fusion`, the scores that rank the items of a text: `dense`, `lexical` or `hybrid`, those of
                the bundle if not given; `min_score`, below which hits are left out, none if not given.

        Returns:
            For each query its hits, best first, each `{"id": ..., "score": ..., "fields": {...},
            "basis": ..., "weak": ...}`, with those of `dense`, `lexical` and `prior` that it has. The basis
            is one of `serving.retrieval.answer.Basis`; `weak` is true if nothing matches well. An answer
            without hits is `[]`, which does not say whether it is weak. A query of which the query tower
            knows nothing has no hits where the bundle does not know popular items.

        Raises:
            MlflowException: a query or a condition does not fit the bundle, or `k` is out of bounds; its
                code is INVALID_PARAMETER_VALUE, which a server answers without a stack trace.
        """
        try:
            return self._answer(model_input, params or {})
        except TwinspireError as error:
            raise MlflowException.invalid_parameter_value(str(error)) from None

    def _answer(self, model_input: list[Any], params: dict[str, Any]) -> list[list[dict[str, Any]]]:
        limits = RequestLimits()
        k = limits.k(int(params.get("k", limits.default_k)))
        if not params.get("k", k):  # `limits.k` takes 0 for the default, as in a request over gRPC
            raise InvalidInput("k", "expected at least 1, got 0")
        exclude_history = params.get("exclude_history")
        text = str(params.get("filter", "")).strip()
        compiled = self._retriever.filters.compile(parse_filter(text)) if text else None
        fusion = FusionMode(str(params.get("fusion", "")) or FusionMode.DEFAULT)
        min_score = float(params.get("min_score", LOWEST_SCORE))
        options = self._retriever.search_options(k, (), exclude_history, compiled, fusion, min_score)
        queries = [_query(row, n) for n, row in enumerate(model_input)]
        hits = []
        for start in range(0, len(queries), BATCH):
            batch = queries[start : start + BATCH]
            names = [f"queries[{start + n}]" for n in range(len(batch))]
            encoded = self._retriever.encode(batch, names)
            hits += [_hits(answer) for answer in self._retriever.search_encoded(encoded, options)]
        return hits


def _hits(answer: Answer) -> list[dict[str, Any]]:
    return [
        {
            **{name: value for name, value in hit._asdict().items() if value is not None},
            "fields": dict(hit.fields),
            "basis": str(answer.basis),
            "weak": answer.weak,
        }
        for hit in answer.hits
    ]


def _query(row: Any, number: int) -> Query:
    if isinstance(row, str):
        return Query(text=row)
    if not isinstance(row, dict):
        kind = type(row).__name__
        raise InvalidInput(f"queries[{number}]", f"expected a text or a dictionary, got {kind}")
    present = {name: value for name, value in row.items() if not _is_nan(value)}
    if is_dated(present.get("history")):  # as in the examples of a manifest
        present["history"], dates = without_times(present["history"])
        present.setdefault("history_times", dates)
    text, history = present.pop("text", None), present.pop("history", None)
    times = present.pop("history_times", None)
    if not isinstance(history, Sequence | None) or isinstance(history, str):
        raise InvalidInput(f"queries[{number}].history", f"expected a list of item ids, got {history!r}")
    others = example_query(present)
    if others.history and history:
        raise InvalidInput(f"queries[{number}].history", "given twice, here and under another name")
    ids = tuple(history or others.history)
    check_item_ids(ids, f"queries[{number}].history")
    return Query(
        text,
        ids,
        others.features,
        history_times=_times(times, f"queries[{number}].history_times") or others.history_times,
    )


def _times(value: Any, field: str) -> tuple[float, ...]:
    try:
        return tuple(math.nan if each is None else float(each) for each in value or ())
    except (TypeError, ValueError):
        raise InvalidInput(field, f"expected a list of seconds since 1970, got {value!r}") from None


def _is_nan(value: Any) -> bool:
    return isinstance(value, float) and math.isnan(value)  # pandas fills missing values with it


mlflow.models.set_model(BundleModel())
