"""The model card of a registered version: data, figures, usage and lineage.

It is rendered from the manifest alone; MLflow shows it as the version's description.
"""

import json
import shlex
from collections.abc import Mapping
from typing import Any

from twinspire.protos.bundle import EXACT, HNSW, Manifest
from twinspire.protos.figures import WARNINGS
from twinspire.protos.inputs.events import is_dated, without_times
from twinspire.protos.mlflow_keys import BUNDLE_VERSION, INDEX_KIND
from twinspire.train.evaluation.baselines import LABELS
from twinspire.train.markdown import aligned, code, one_line, plain
from twinspire.train.metrics import metric_label
from twinspire.train.terminal import baseline_columns, metric_rows, probability_rows

REFRESHED_FROM = "refreshed_from"  # tag of a version that a refresh has made
LIMIT = 5000  # characters of the registry's column; PostgreSQL refuses more, SQLite does not check
CELL = 200  # characters of one value
ENCODER = 600  # characters about a pretrained encoder: its licence must not be cut
REFIT = (
    "The towers have learned from the training and validation pairs. Epochs and weights were chosen on "
    "validation before that, by towers that had not learned from it. These figures are of the served towers, "
    "which have learned from no test pair."
)
ENDS = "_low", "_high"  # suffixes of a metric's name for its interval


def card(manifest: Manifest) -> str:
    """The card of a bundle, at most `LIMIT` characters: if it is longer, the longest parts are left out."""
    parts = [
        _head(manifest),
        _data(manifest),
        _quality(manifest.quality),
        _index(manifest),
        _use(manifest),
        _lineage(manifest),
    ]
    parts = [part.replace("\0", "") for part in parts if part]
    kept = {parts[0], parts[-1]}
    while len("\n\n".join(parts)) > LIMIT and len(parts) > len(kept):
        parts.remove(max((part for part in parts if part not in kept), key=len))
    return "\n\n".join(parts)[:LIMIT]


def model_description(manifest: Manifest) -> str:
    """The description of the registered model: what holds for all its versions."""
    name = code(manifest.name, CELL)
    return (
        f"Two-tower retrieval model {name}: queries and items as vectors, and an index over the items. A "
        "version is a bundle of both towers in ONNX, item vectors, index and schema; its description is its "
        "model card.\n\n"
        "- `@champion` is the version that is served. Services that follow the alias load a new one in "
        "seconds.\n"
        "- `@challenger` is the newest version that waits for `make promote`, which compares it with the "
        "champion.\n"
        f"- Decisions are runs of the experiment {name} with the tag `twinspire.stage = release`; each has a "
        "report of all gates, `release/decision.html`. `make history` lists them; `make rollback` goes back."
    )


def model_tags(manifest: Manifest) -> dict[str, str]:
    """Tags of the registered model, to find it by."""
    known = {
        "task": "retrieval",
        "made_by": "twinspire",
        "dataset": manifest.dataset.get("name"),
        "dataset_kind": manifest.dataset.get("kind"),
    }
    return {name: one_line(value, CELL) for name, value in known.items() if value}


def lineage(manifest: Manifest) -> dict[str, str]:
    """The origin of a bundle, as tags of its version."""
    dataset = manifest.dataset
    known = {
        BUNDLE_VERSION: manifest.bundle_version,
        INDEX_KIND: manifest.index.kind,
        "run_id": manifest.run_id,
        "git_commit": manifest.git_commit,
        "dataset": dataset.get("name") or dataset.get("kind"),
        "dataset_fingerprint": dataset.get("fingerprint"),
        "split_hash": manifest.split_hash,
        REFRESHED_FROM: manifest.refreshed_from and manifest.refreshed_from.bundle_version,
        "catalogue": manifest.catalogue and f"{manifest.catalogue.store} {manifest.catalogue.sequence}",
    }
    return {name: one_line(value, CELL) for name, value in known.items() if value}


def _head(manifest: Manifest) -> str:
    query, item = (
        ", ".join(name if name == spec.kind else f"{name} ({spec.kind})" for name, spec in side.items())
        for side in (manifest.schema.query, manifest.schema.item)
    )
    named = {HNSW: "an HNSW index", EXACT: "exact search"}
    index = named.get(manifest.index.kind, f"an index of kind {_plain(manifest.index.kind)}")
    several = f"{manifest.interests} vectors for each query, " if manifest.interests > 1 else ""
    return (
        f"# {_plain(manifest.name)}\n\n"
        f"Two-tower retrieval: a query tower ({_plain(query)}) and an item tower ({_plain(item)}) in ONNX, "
        f"D = {manifest.dimension}, {several}{index} over {manifest.count:,} items. "
        f"Scores: {manifest.score.kind.replace('_', ' ')}."
    ) + (f"\n\nPretrained encoder: {plain(manifest.pretrained, ENCODER)}." if manifest.pretrained else "")


def _data(manifest: Manifest) -> str:
    data = manifest.dataset
    counted = [f"{data[name]:,} {name}" for name in ("items", "pairs", "groups") if _is_count(data.get(name))]
    parts = data.get("parts")
    if isinstance(parts, Mapping):
        counted += [f"{_plain(name)} {count:,}" for name, count in sorted(parts.items()) if _is_count(count)]
    origin = data.get("origin")
    licence = origin.get("licence") if isinstance(origin, Mapping) else None
    lines = [f"## Data\n\n{_plain(data.get('name') or data.get('kind') or 'unnamed')}"]
    lines += [": " + ", ".join(counted)] if counted else []
    lines += [f". {_plain(f'{licence}'[:1].upper() + f'{licence}'[1:])}"] if licence else []
    return "".join(lines) + "."


def _quality(metrics: Mapping[str, Any]) -> str:
    towers = {"exact_": "towers alone"} if "exact_ndcg_at_10" in metrics else {}
    names = {"": "served", **towers, **baseline_columns(metrics)}
    rows = [name for name in metric_rows(metrics) if name in metrics]
    if not rows:
        return ""
    parts = [f"## Quality on the test split, {int(metrics.get('queries', 0)):,} queries"]
    if labels := probability_rows(metrics):
        of_labels = {f"{name}_": label for name, label in LABELS.items() if f"{name}_auc" in metrics}
        parts.append(_figures(metrics, labels, {"": "served", **of_labels}))
    parts.append(_figures(metrics, rows, names))
    if metrics.get("drawn"):
        labelled = metrics.get("drawn_pairs")
        beside = f"; of AUC and log loss, {_plain(labelled)}" if labelled else ""
        parts.append(f"95 % intervals, {_plain(metrics['drawn'])} drawn{beside}.")
    parts.append("By exact search; how much of it the index finds stands under Index.")
    parts += [REFIT] if metrics.get("refitted") else []
    parts += [f"Verdict: {_plain(metrics['verdict'])}."] if metrics.get("verdict") else []
    parts += [f"**Warning.** {_plain(each)}." for each in metrics.get(WARNINGS, ())]
    return "\n\n".join(parts)


def _figures(metrics: Mapping[str, Any], rows: list[str], names: Mapping[str, str]) -> str:
    """A table of metrics, a column for each prefix in `names`."""
    cells = [[metric_label(name), *(_figure(metrics, prefix + name) for prefix in names)] for name in rows]
    return aligned(["", *names.values()], cells, "l" + "r" * len(names))


def _figure(metrics: Mapping[str, Any], name: str) -> str:
    """A metric to four digits, with its interval if it has one."""
    if name not in metrics:
        return ""
    low, high = (metrics.get(name + end) for end in ENDS)
    interval = f" ({low:.3f} to {high:.3f})" if low is not None and high is not None else ""
    return f"{metrics[name]:.4f}{interval}"


def _index(manifest: Manifest) -> str:
    recall = ", ".join(
        f"{_plain(metric_label(name.removeprefix('ann_')))} {value:.4f} against exact search"
        for name, value in manifest.ann.items()
        if name.startswith("ann_recall")
    )
    target = f" (target {_plain(manifest.ann['target'])})" if "target" in manifest.ann else ""
    return f"## Index\n\n{_plain(manifest.index.describe())}: {recall}{target}."


def _use(manifest: Manifest) -> str:
    name = one_line(manifest.name, CELL)
    uri = f"models:/{name}@champion"
    query = json.dumps(as_input(manifest.examples[0]), ensure_ascii=False) if manifest.examples else '"..."'
    query = query if len(query) <= CELL else '"..."'
    return (
        f"## Use\n\nBy alias as below, or by version as {code(f'models:/{name}/VERSION')}; "
        f"the files are {manifest.size_mib:,.1f} MiB.\n\n"
        "```python\n"
        f"model = mlflow.pyfunc.load_model({json.dumps(uri, ensure_ascii=False)})\n"
        f'model.predict([{query}], params={{"k": 10}})\n'
        "```\n\n"
        "```sh\n"
        f"python -m twinspire.serving serve --model {shlex.quote(uri)}                # gRPC\n"
        "```\n\n"
        "`make serve-mlflow CONFIG=...` in a checkout answers JSON over HTTP. Elsewhere, with "
        "`MLFLOW_TRACKING_URI` set and uvicorn on the `PATH`: "
        f"{code(f'mlflow models serve -m {shlex.quote(uri)} --env-manager local')}."
    )


def as_input(query: Mapping[str, Any]) -> Any:
    """A query as `predict` of a registered model takes it: a text, or features by name."""
    (only, *others) = query.values()
    if isinstance(only, str) and not others:
        return only
    shown: dict[str, Any] = {}
    for name, value in query.items():
        if is_dated(value):
            shown["history"], shown["history_times"] = without_times(value)
        else:
            shown[name] = value
    return shown


def _lineage(manifest: Manifest) -> str:
    lines = [f"- {name}: {code(value)}" for name, value in lineage(manifest).items()]
    return "\n".join(["## Lineage", "", *lines])


def _plain(value: Any) -> str:
    return plain(value, CELL)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
