"""The benchmark measures what it says, under the names that are used everywhere."""

import itertools
import math
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.helpers.tiny_towers import TinyTower, write_tower
from twinspire.export.benchmark import towers
from twinspire.export.benchmark.figures import Figures, LatencyCase, shown
from twinspire.export.benchmark.towers import (
    MANIFEST_BATCHES,
    TowerForms,
    cases,
    effort,
    manifest_latency,
    time_tower,
    torch_threads,
)
from twinspire.export.onnx.runtimes import LARGEST_BATCH
from twinspire.protos.features import Arrays, TextFeature, TowerInputs
from twinspire.protos.system import timing
from twinspire.protos.system.machine import machine
from twinspire.protos.system.timing import FIRST, WARM_UP, Effort, take_turns
from twinspire.protos.toml_config import parse
from twinspire.train.config import ExportConfig
from twinspire.train.config.bench import BenchConfig

pytestmark = pytest.mark.exhaustive

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


def test_a_slower_backend_is_measured_slower_on_varied_inputs() -> None:
    seen: list[Any] = []
    backends = {"served": sleeper(0.001, seen), "torch": sleeper(0.003, [])}
    before = torch.get_num_threads()
    cell = LatencyCase("query", 1, 1)
    with torch_threads(1):
        taken = time_tower(cell, backends, INPUTS, VALUES, EVERY)
    assert torch.get_num_threads() == before
    assert {(size, threads) for size, threads, _ in seen} == {(1, 1)}
    assert len({content for *_, content in seen}) > 20
    found = Figures()
    summaries = found.add_case(cell, taken, seed=0)
    figures = found.metrics
    assert summaries["served"]["p50_us"] == figures["query_tower_b1_p50_us"] >= 1000
    assert figures["torch_b1_p99_us"] >= figures["torch_b1_p95_us"] >= figures["torch_b1_p50_us"] >= 3000
    expected = figures["torch_b1_p50_us"] / figures["query_tower_b1_p50_us"]
    assert figures["torch_over_onnx_b1"] == pytest.approx(expected)
    assert found.estimates["torch_over_onnx_b1"].low > 1
    rate = 1e6 / figures["torch_b1_mean_us"]
    assert figures["torch_b1_records_per_s"] == pytest.approx(rate)


def test_a_bundles_own_report_is_of_the_same_figures_as_ever(tmp_path: Path) -> None:
    path = tmp_path / "tower.onnx"
    write_tower(path, TinyTower(INPUTS.features))
    sleepy: Any = Sleeper()
    forms = TowerForms(INPUTS, sleepy, path, VALUES)
    both: Any = dict.fromkeys(("query", "item"), forms)
    report = manifest_latency(both, ExportConfig())
    percentiles = [f"b{batch}_p{p}_us" for batch in MANIFEST_BATCHES for p in (50, 95, 99)]
    expected = {f"torch_over_onnx_b{batch}" for batch in MANIFEST_BATCHES}
    expected |= {f"item_torch_over_onnx_b{batch}" for batch in MANIFEST_BATCHES}
    starts = ["torch_", "item_tower_torch_", "query_tower_", "item_tower_"]
    expected |= {start + each for start in starts for each in percentiles}
    assert report["metrics"].keys() == expected
    for batch in MANIFEST_BATCHES:
        own, other = (report["towers"]["item"][str(batch)][name]["p50_us"] for name in ("served", "torch"))
        assert report["metrics"][f"item_torch_over_onnx_b{batch}"] == pytest.approx(other / own)
    assert (report["threads"], report["machine"]) == (1, machine())


def test_a_bundles_own_report_leaves_out_batches_that_would_take_much_memory(tmp_path: Path) -> None:
    inputs = TowerInputs("item", {"text": TextFeature("text", "text", max_length=4096)}, {})
    path = tmp_path / "tower.onnx"
    write_tower(path, TinyTower(inputs.features))
    values = {"text": ["short", "x" * (LARGEST_BATCH // 8)]}
    sleepy: Any = Sleeper()
    forms = TowerForms(inputs, sleepy, path, values)
    report = manifest_latency({"item": forms}, ExportConfig(iterations=10))
    assert [*report["towers"]["item"]] == ["1", "8"]
    assert "item_tower_b32_p50_us" not in report["metrics"]


def test_a_bundles_own_report_takes_few_calls_once_the_seconds_of_a_tower_are_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(towers, "TOWER_SECONDS", 0.0)
    path = tmp_path / "tower.onnx"
    write_tower(path, TinyTower(INPUTS.features))
    sleepy: Any = Sleeper()
    report = manifest_latency({"query": TowerForms(INPUTS, sleepy, path, VALUES)}, ExportConfig())
    calls = [each[name]["iterations"] for each in report["towers"]["query"].values() for name in each]
    assert len(calls) == 2 * len(MANIFEST_BATCHES)
    assert all(2 <= count <= 30 for count in calls)


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


def test_no_more_than_the_fewest_calls_are_made_once_the_time_is_up() -> None:
    def made(seconds: float) -> int:
        slow: Any = {name: [lambda: time.sleep(0.001)] for name in "ab"}
        return take_turns(slow, Effort(300, 40, seconds))["a"].wall.size

    assert made(0) == 60  # whole turns of 30
    assert made(math.inf) == 300
    config = BenchConfig()
    assert effort(LatencyCase("item", 1, 8), config).seconds == config.cell_seconds
    assert (
        effort(LatencyCase("item", 1, 32), config).pause
        == 0
        < effort(LatencyCase("item", 0, 1), config).pause
    )


def test_of_long_calls_two_are_enough_and_none_is_made_before_a_turn() -> None:
    called: list[int] = []

    def slow() -> None:
        called.append(1)
        time.sleep(0.3)

    taken = take_turns({"a": [slow]}, Effort(300, 2, 0.0))["a"].wall
    assert taken.shape == (2, 1)
    assert len(called) == 4  # two before, for the length of a turn


def test_no_more_turns_are_made_once_the_medians_are_certain() -> None:
    def turns(narrow: float) -> int:
        quick: Any = {name: [lambda: None] for name in "ab"}
        return len(take_turns(quick, Effort(900, 900, math.inf, narrow=narrow))["a"].wall)

    assert turns(math.inf) == timing.TURNS < turns(0.0) == 30
    same, other = [[(100.0, 0.0)] * 3] * 10, [[(300.0, 0.0)] * 3] * 10
    assert timing.half_interval(same) == 0
    assert 0.2 < timing.half_interval(same + other) < 0.3  # 1.96 * 103 / sqrt(20) / 200


def test_the_plan_holds_what_it_says() -> None:
    planned = cases(BenchConfig())
    assert len(planned) == len(set(planned))
    assert {(c.side, c.threads, c.batch) for c in planned} == {
        (side, threads, batch)
        for side in ("query", "item")
        for threads in (1, 0)
        for batch in (1, 8, 32, 256)
    }
    groups = [(c.threads, c.side) for c in planned]
    assert len({(a, b) for a, b in itertools.pairwise(groups) if a != b}) == 3  # each once


def test_names_tell_tower_batch_and_threads() -> None:
    taken = {"torch": np.full((5, 4), 6.0), "served": np.full((5, 4), 2.0)}
    figures = Figures()
    for case in cases(BenchConfig()):
        figures.add_case(case, taken, 0)
    names = figures.metrics.keys()
    for name in (
        "query_tower_b256_all_cores_records_per_s",
        "query_tower_b1_p99_us",
        "torch_b1_p50_us",
        "item_tower_torch_b8_p95_us",
        "torch_over_onnx_b1",
        "torch_over_onnx_b32_all_cores",
        "item_torch_over_onnx_b32",
    ):
        assert name in names
    assert "query_tower_torch_b1_p50_us" not in names
    assert figures.metrics["torch_over_onnx_b1"] == 3.0


def test_a_figure_is_shown_with_its_unit() -> None:
    found = [shown("a_p50_us", 1234.5), shown("load_s", 0.4), shown("torch_over_onnx_b1", 6.98)]
    assert found == ["1,234 µs", "0.400 s", "6.98"]


@pytest.mark.parametrize(
    ("section", "text"),
    [
        ({"threads": [0]}, "bench.threads, batches: expected 1 among both"),
        ({"threads": [1, 1]}, "bench.threads: expected different numbers from 0 on, got [1, 1]"),
        ({"batches": []}, "bench.batches: expected different numbers from 1 on, got []"),
        ({"cell_seconds": 0}, "bench.cell_seconds: expected a number above 0, got 0.0"),
        ({"loads": 0}, "bench.loads: expected at least 1, got 0"),
    ],
)
def test_a_section_that_makes_no_sense_is_refused(section: Any, text: str) -> None:
    with pytest.raises(ValueError) as error:
        parse(section, BenchConfig, "bench")
    assert str(error.value).startswith(text)
