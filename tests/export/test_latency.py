"""The benchmark measures what it says, under the names that are used everywhere."""

import time
from typing import Any

import numpy as np
import torch

from export import latency
from protos.features import Arrays, TextFeature, TowerInputs

INPUTS = TowerInputs("query", {"text": TextFeature("text", "query")}, {})
VALUES = {"text": [f"query number {n}" for n in range(100)]}


def sleeper(seconds: float, seen: list[Any]) -> Any:
    def encode(arrays: Arrays) -> Any:
        seen.append((len(arrays["text"]), torch.get_num_threads(), arrays["text"].tobytes()))
        time.sleep(seconds)
        return np.zeros((len(arrays["text"]), 2))

    return encode


def test_a_slower_backend_is_measured_slower_on_varied_inputs() -> None:
    seen: list[Any] = []
    backends = {"fp32": sleeper(0.001, seen), "torch": sleeper(0.003, [])}
    before = torch.get_num_threads()
    measured = latency.measure(INPUTS, backends, VALUES, iterations=20, threads=1)
    figures = latency.metrics("query", measured)
    assert torch.get_num_threads() == before
    assert {size for size, _, _ in seen} == set(latency.BATCHES)
    assert {threads for _, threads, _ in seen} == {1}
    assert len({content for size, _, content in seen if size == 1}) > 20  # varied inputs
    ratio = figures["torch_b1_p50_us"] / figures["query_tower_fp32_b1_p50_us"]
    assert figures["torch_over_onnx_b1"] == ratio > 1
    assert figures["query_tower_fp32_b1_p50_us"] >= 1000
    assert figures["torch_b32_p99_us"] >= figures["torch_b32_p50_us"] >= 3000
    item = latency.metrics("item", measured)
    assert {"item_tower_fp32_b8_p95_us", "item_tower_torch_b8_p95_us", "item_torch_over_onnx_b8"} <= set(item)
