"""A service once: start it, query it, summarise its bundle, stop it.

    python -m twinspire.serving demo --model models:/pydocs@champion

The server is in this process, on a free port, and is queried over gRPC.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from rich.console import Console

from twinspire.protos.bundle import Manifest
from twinspire.protos.cli import printable
from twinspire.protos.features import HistoryFeature, TextFeature
from twinspire.protos.inputs.events import item_ids
from twinspire.protos.mlflow_keys import ui_page, ui_server
from twinspire.serving.cli import tables
from twinspire.serving.client import RetrievalClient
from twinspire.serving.client.answer_files import answer_document
from twinspire.serving.retrieval.query import example_query
from twinspire.serving.rollout.loaded_bundle import LoadedBundle
from twinspire.serving.segments.catalogue import Catalogue
from twinspire.serving.server import RetrievalServer

TEXTS, TEXT_HITS = 5, 3  # queries, and hits of each
HISTORIES, HISTORY_HITS = 3, 5
RECENT = 5  # items of a history that are shown
METRICS = {
    "recall_at_10": "recall@10",
    "ndcg_at_10": "nDCG@10",
    "mrr_at_10": "MRR@10",
    "auc": "AUC",
    "log_loss": "log loss",
}
BASELINES = {  # prefix of a baseline's metrics -> its name
    "exact": "towers alone",
    "bm25": "BM25",
    "bm25_full": "BM25 (full texts)",
    "tfidf": "TF-IDF",
    "query_popularity": "query popularity",
    "popularity": "popularity",
    "recent_popularity": "recent popularity",
    "itemknn": "item-kNN",
    "slist": "SLIST",
    "ease": "EASE",
    "ease_recency": "EASE (recency weights)",
    "ease_recent": "EASE, content, recency",
    "base_rate": "base rate",
    "itemmean": "item means",
    "user_item": "user + item means",
    "user_item_knn": "user + item means, item-kNN",
}


def run(folder: Path, console: Console) -> dict[str, Any]:
    """Serve a bundle, search for the first examples of its manifest, and stop.

    Returns:
        The answers, and the manifest.

    Raises:
        BundleError: the bundle cannot be used.
    """
    bundle = LoadedBundle.load(folder)
    manifest = bundle.manifest
    catalogue = None if manifest.is_remote else Catalogue(folder, manifest)
    histories = any(isinstance(spec, HistoryFeature) for spec in manifest.schema.query.values())
    shown, hits = (HISTORIES, HISTORY_HITS) if histories else (TEXTS, TEXT_HITS)
    answered = []
    with RetrievalServer(bundle) as server, RetrievalClient(server.address) as client:
        info = client.info()
        console.print(f"serving {info.item_count:,} items at {server.address}\n")
        for example in manifest.examples[:shown]:
            answer = client.search(example_query(example), hits)
            for line in _lines(example, manifest, catalogue):
                console.print(printable(line), style="bold")
            tables.show_answer(console, answer)
            console.print()
            answered.append({"query": example, **answer_document(answer)})
    return {"answers": answered, "manifest": info.manifest}


def _lines(example: Mapping[str, Any], manifest: Manifest, catalogue: Catalogue | None) -> Iterator[str]:
    """A query as lines of text, with the names of the items of a history."""
    for name, value in example.items():
        spec = manifest.schema.query[name]
        if value is None:
            continue
        if isinstance(spec, HistoryFeature):
            yield f"{name}: {len(value)} items, the newest last" if value else f"{name}: empty"
            if len(value) > RECENT:
                yield f"  ... {len(value) - RECENT} before"
            recent = item_ids(value[-RECENT:])
            yield from (f"  {_title(item_id, manifest, catalogue)}" for item_id in recent)
        else:
            yield value if isinstance(spec, TextFeature) else f"{name}: {value}"


def _title(item_id: str, manifest: Manifest, catalogue: Catalogue | None) -> str:
    """The first of an item's display fields, or its id if it has none or another server has the items."""
    if catalogue is None:
        return item_id
    rows = catalogue.rows([item_id])
    fields = catalogue.fields(rows.pop()) if rows else {}
    return next((fields[name] for name in manifest.display_fields[:1] if name in fields), item_id)


def summary(manifest: dict[str, Any]) -> dict[str, str]:
    """A summary of a bundle for a table: name of the row -> text.

    Args:
        manifest: of the bundle, as JSON.
    """
    data, quality, latency = manifest["dataset"], manifest["quality"], manifest["latency"]
    parts = ", ".join(
        f"{data['parts'][part]:,} {part}"
        for part in ("train", "validation", "test", "cold")
        if part in data["parts"]
    )
    ann = next(name for name in manifest["ann"] if name.startswith("ann_recall"))
    worst = max(side["max_abs_diff"] for side in manifest["parity"].values())
    figures = latency["metrics"]
    onnx, torch = figures["query_tower_b1_p50_us"], figures["torch_b1_p50_us"]
    differ = data.get("evaluated_text") != data.get("served_text")
    texts = {"evaluated on": data.get("evaluated_text"), "served text": data.get("served_text")}
    page = ui_page(f"models/{quote(manifest['name'], safe='')}")
    return {
        "data": f"{data['name']}: {data['items']:,} items; pairs: {parts}",
        "test queries": f"{quality['queries']:,}",
        **{name: ", ".join(columns) for name, columns in texts.items() if columns and differ},
        **{name: _compared(quality, metric) for metric, name in METRICS.items() if metric in quality},
        "verdict": quality["verdict"],
        "index": f"{ann} {manifest['ann'][ann]:.4f} against exact search, "
        f"ef_search {manifest['index']['ef_search']}",
        "parity": f"torch and ONNX Runtime differ by at most {worst:.1e}",
        "query tower": f"{onnx:.0f} us at batch 1 on {latency['threads']} thread, "
        f"torch eager {torch:.0f} us ({torch / onnx:.1f} times)",
        "bundle": manifest["bundle_version"],
        "run": manifest["run_id"],
        "MLflow UI": page if ui_server() else f"make ui, then {page}",
    }


def _compared(quality: Mapping[str, Any], metric: str) -> str:
    """A metric of the bundle, then of its towers alone and of the baselines."""
    baselines = {
        name: quality[f"{prefix}_{metric}"]
        for prefix, name in BASELINES.items()
        if f"{prefix}_{metric}" in quality
    }
    return ", ".join(
        f"{value:.3f} {name}" for name, value in {"served": quality[metric], **baselines}.items()
    )
