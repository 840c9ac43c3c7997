"""The whole service once: start it, ask it, say what is known of what answered, stop it.

    python -m serving demo --model models:/pydocs@champion

The server is a process of its own on a free port, asked over gRPC, and ended by SIGTERM.
"""

import contextlib
import dataclasses
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console

from protos.errors import Unavailable
from serving import tables
from serving.answer import Answer
from serving.client import RetrievalClient
from serving.query import example_query

QUERIES = 5
HITS = 3
PATIENCE = 120.0  # seconds until the server answers, and until it has stopped


def run(source: list[str], console: Console) -> dict[str, Any]:
    """Serve `source`, ask the first examples of its manifest, and stop.

    Args:
        source: arguments of `serve` that name what to serve.
        console: for the answers.

    Returns:
        the answers, the manifest, and whether the server stopped cleanly.

    Raises:
        Unavailable: the server does not come up, or does not stop cleanly.
    """
    with _server(source) as address, RetrievalClient(address) as client:
        client.wait_ready(PATIENCE)
        info = client.info()
        manifest: Any = info.manifest
        console.print(f"serving {info.item_count:,} items at {address}\n", highlight=False)
        answered = []
        for example in manifest["examples"][:QUERIES]:
            answer = client.search(example_query(example), HITS)
            console.print(", ".join(str(value) for value in example.values()), style="bold", markup=False)
            tables.show_answer(console, answer)
            console.print()
            answered.append({"query": example, **_document(answer)})
    return {"answers": answered, "manifest": manifest, "stopped": "cleanly"}


@contextlib.contextmanager
def _server(source: list[str]) -> Iterator[str]:
    """A server process for as long as the block lasts; its address."""
    with tempfile.TemporaryDirectory() as folder:
        port_file = Path(folder) / "port"
        command = [sys.executable, "-m", "serving", "serve", "--port", "0", "--port-file", str(port_file)]
        process = subprocess.Popen([*command, *source], stdout=subprocess.DEVNULL)
        try:
            yield f"127.0.0.1:{_port(process, port_file)}"
            process.send_signal(signal.SIGTERM)
            if process.wait(PATIENCE) != 0:
                raise Unavailable(f"the server stopped with exit code {process.returncode}")
        finally:
            if process.poll() is None:
                process.kill()
                process.wait()


def _port(process: subprocess.Popen[bytes], port_file: Path) -> int:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        if port_file.is_file():
            return int(port_file.read_text())
        if process.poll() is not None:
            raise Unavailable(f"the server ended with exit code {process.returncode} before it answered")
        time.sleep(0.05)
    raise Unavailable(f"the server did not answer within {PATIENCE:.0f} s")


def _document(answer: Answer) -> dict[str, Any]:
    return {"hits": [dataclasses.asdict(hit) for hit in answer.hits], "bundle_version": answer.bundle_version}


def summary(manifest: dict[str, Any]) -> dict[str, str]:
    """What is known of a bundle, a line each."""
    data, quality, latency = manifest["dataset"], manifest["quality"], manifest["latency"]
    parts = ", ".join(f"{data['parts'][part]:,} {part}" for part in ("train", "validation", "test"))
    ann = next(name for name in manifest["ann"] if name.startswith("ann_recall"))
    worst = max(side["max_abs_diff"] for side in manifest["parity"].values())
    figures = latency["metrics"]
    onnx, torch = figures["query_tower_fp32_b1_p50_us"], figures["torch_b1_p50_us"]
    return {
        "data": f"{data['name']}: {data['items']:,} items; pairs: {parts}",
        "evaluated on": f"{', '.join(data['evaluated_text'])}; {quality['queries']:,} test queries",
        "recall@10": f"{quality['recall_at_10']:.3f} served, {quality['exact_recall_at_10']:.3f} exact, "
        f"{quality['bm25_recall_at_10']:.3f} BM25",
        "MRR@10": f"{quality['mrr_at_10']:.3f} served, {quality['exact_mrr_at_10']:.3f} exact, "
        f"{quality['bm25_mrr_at_10']:.3f} BM25",
        "served text": ", ".join(data["served_text"]),
        "index": f"{ann} {manifest['ann'][ann]:.4f} against exact search, "
        f"ef_search {manifest['index']['ef_search']}",
        "parity": f"torch and ONNX Runtime differ by at most {worst:.1e}",
        "query tower": f"{onnx:.0f} us at batch 1 on {latency['threads']} thread, "
        f"torch eager {torch:.0f} us ({torch / onnx:.1f} times)",
        "bundle": manifest["bundle_version"],
        "run": manifest["run_id"],
        "MLflow UI": "make ui, then http://127.0.0.1:5000",
    }
