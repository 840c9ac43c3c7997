"""The benchmark measures what it says, under the names that are used everywhere."""

import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.tiny_towers import TinyTower, write_tower
from twinspire.export.benchmark.figures import Figures, percentile, ratio
from twinspire.export.benchmark.towers import (
    BATCHES,
    TowerForms,
    distinct_batches,
    measure_towers,
    time_tower,
    torch_threads,
)
from twinspire.export.onnx.runtimes import LARGEST_BATCH
from twinspire.protos.features import Arrays, TextFeature, TowerInputs
from twinspire.protos.system import timing
from twinspire.protos.system.machine import machine
from twinspire.protos.system.timing import FIRST, WARM_UP, Effort, take_turns
from twinspire.train.config.bundle import ExportConfig

INPUTS = TowerInputs("query", {"text": TextFeature("text", "query", max_length=64)}, {})
VALUES = {"text": [f"query number {n}" for n in range(100)]}
EVERY = Effort(20, 20, math.inf)


def sleeper(seconds: float, seen: list[Any]) -> Any:
    def encode(arrays: Arrays) -> Any:
        seen.append((len(arrays["text"]), torch.get_num_threads(), arrays["text"].tobytes()))
        time.sleep(seconds)
        return np.zeros((len(arrays["text"]), 2))

    return encode


class Sleeper(torch.nn.Module):
    """A tower that takes three milliseconds."""

    def forward(self, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        time.sleep(0.003)
        return torch.zeros(len(inputs["text"]), 2)


@pytest.mark.exhaustive
def test_a_slower_backend_is_measured_slower_on_varied_inputs() -> None:
    seen: list[Any] = []
    backends = {"served": sleeper(0.001, seen), "torch": sleeper(0.003, [])}
    before = torch.get_num_threads()
    with torch_threads(1):
        taken = time_tower(1, backends, INPUTS, VALUES, EVERY)
    assert torch.get_num_threads() == before
    assert {(size, threads) for size, threads, _ in seen} == {(1, 1)}
    assert len({content for *_, content in seen}) > 20
    found = Figures()
    summaries = found.add_tower("query", 1, taken)
    figures = found.metrics
    assert summaries["served"]["p50_us"] == figures["query_tower_b1_p50_us"] >= 1000
    assert figures["torch_b1_p99_us"] >= figures["torch_b1_p95_us"] >= figures["torch_b1_p50_us"] >= 3000
    expected = figures["torch_b1_p50_us"] / figures["query_tower_b1_p50_us"]
    assert figures["torch_over_onnx_b1"] == pytest.approx(expected)
    assert found.estimates["torch_over_onnx_b1"].low > 1


@pytest.mark.exhaustive
def test_a_bundles_own_report_is_of_the_same_figures_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "tower.onnx"
    write_tower(path, TinyTower(INPUTS.features))
    sleepy: Any = Sleeper()
    forms = TowerForms(INPUTS, sleepy, path, VALUES)
    both: Any = dict.fromkeys(("query", "item"), forms)
    report = measure_towers(both, ExportConfig())
    percentiles = [f"b{batch}_p{p}_us" for batch in BATCHES for p in (50, 95, 99)]
    expected = {f"torch_over_onnx_b{batch}" for batch in BATCHES}
    expected |= {f"item_torch_over_onnx_b{batch}" for batch in BATCHES}
    starts = ["torch_", "item_tower_torch_", "query_tower_", "item_tower_"]
    expected |= {start + each for start in starts for each in percentiles}
    assert report["metrics"].keys() == expected
    for batch in BATCHES:
        own, other = (report["towers"]["item"][str(batch)][name]["p50_us"] for name in ("served", "torch"))
        assert report["metrics"][f"item_torch_over_onnx_b{batch}"] == pytest.approx(other / own)
    assert (report["threads"], report["machine"]) == (1, machine())


@pytest.mark.exhaustive
def test_a_bundles_own_report_leaves_out_batches_that_would_take_much_memory(tmp_path: Path) -> None:
    inputs = TowerInputs("item", {"text": TextFeature("text", "text", max_length=4096)}, {})
    path = tmp_path / "tower.onnx"
    write_tower(path, TinyTower(inputs.features))
    values = {"text": ["short", "x" * (LARGEST_BATCH // 8)]}
    sleepy: Any = Sleeper()
    forms = TowerForms(inputs, sleepy, path, values)
    report = measure_towers({"item": forms}, ExportConfig(iterations=10))
    assert [*report["towers"]["item"]] == ["1", "8"]
    assert "item_tower_b32_p50_us" not in report["metrics"]


@pytest.mark.exhaustive
def test_contenders_take_the_same_places_in_alternating_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(timing, "WARM_UP", WARM_UP)  # tests/conftest.py takes it away
    monkeypatch.setattr(timing, "FIRST", FIRST)
    called: list[tuple[str, int]] = []

    def calls(name: str) -> list[Any]:
        return [lambda n=n: called.append((name, n)) for n in range(7)]

    found = take_turns({"a": calls("a"), "b": calls("b")}, Effort(40, 40, math.inf))
    assert {times.shape for each in found.values() for times in each} == {(10, 4)}
    assert len(called) > 2 * (FIRST + 10 * 2 * 7)  # some turns are not counted
    timed = called[-10 * 2 * 7 :]  # a turn: three calls that are not counted, then four
    turns = [timed[at : at + 7] for at in range(0, len(timed), 7)]
    assert [turn[0][0] for turn in turns] == ["a", "b", "b", "a"] * 5
    for turn, (first, second) in enumerate(zip(turns[::2], turns[1::2], strict=True)):
        assert [n for _, n in first] == [n for _, n in second]
        assert first[3][1] == turn * 4 % 7


@pytest.mark.exhaustive
def test_no_more_turns_are_made_once_the_medians_are_certain() -> None:
    def turns(narrow: float) -> int:
        quick: Any = {name: [lambda: None] for name in "ab"}
        return len(take_turns(quick, Effort(900, 900, math.inf, narrow=narrow))["a"].wall)

    assert turns(math.inf) == timing.TURNS < turns(0.0) == 30
    same, other = [[(100.0, 0.0)] * 3] * 10, [[(300.0, 0.0)] * 3] * 10
    assert timing.half_interval(same) == 0
    assert 0.2 < timing.half_interval(same + other) < 0.3  # 1.96 * 103 / sqrt(20) / 200


def test_the_interval_of_a_ratio_contains_the_ratio() -> None:
    held, single = 0, 0
    for seed in range(15):
        random = np.random.default_rng(seed)
        drift = random.uniform(1, 3, (10, 1))  # the machine is slower in some turns, for both
        slow, fast = (factor * drift * random.gamma(20, 0.05, (10, 30)) for factor in (600.0, 200.0))
        found = ratio(slow, fast)
        assert found.low <= found.mean <= found.high
        held += found.low <= 3 <= found.high
        alone = percentile(slow, 50)
        single += alone.high / alone.low > 1.2
        assert found.high / found.low < 1.5  # the drift cancels
    assert held >= 12
    assert single >= 12  # and shows in a time by itself


def test_batches_are_distinct_and_of_real_records() -> None:
    for batch in (1, 8, 256):
        batches = distinct_batches(INPUTS, VALUES, batch)
        assert {len(each["text"]) for each in batches} == {batch}
        assert len({each["text"].tobytes() for each in batches}) == len(batches) >= 64
    assert {each["text"].shape[1] for each in distinct_batches(INPUTS, VALUES, 1)} == {14, 15}
