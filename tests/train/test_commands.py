"""The command line of training: one document on stdout, the rest on stderr, 0, 1 or 2."""

import io
import json
import sys
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from rich.console import Console

from tests.helpers.served import START, Answer, event, write_events, write_log
from tests.helpers.stdlib import Made, write_toml
from twinspire.train.__main__ import main, parser, show_data

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def run(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Run a command; gives its exit code, what it printed, and what it said beside."""

    def call(*arguments: str | Path) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["train", *map(str, arguments)])
        code = main()
        captured = capsys.readouterr()
        return code, captured.out, " ".join(captured.err.split())

    return call


def test_data_prints_one_document(run: Any, made: Made) -> None:
    code, output, _ = run("data", "--config", made.config, "--json")
    assert (code, output.count("\n")) == (0, 1)
    found = json.loads(output)
    assert found.pop("contents")
    assert found == made.dataset.report


def test_data_tells_what_was_dropped(run: Any, stdlib: Path, tmp_path: Path) -> None:
    changed: Any = {"data": {"max_items": 300}}
    code, output, _ = run("data", "--config", write_toml(stdlib, tmp_path / "a.toml", **changed))
    assert code == 0
    assert output.startswith("stdlib: ")
    assert "item outside the sample of max_items" in output


def test_a_filter_with_brackets_is_shown_as_it_is() -> None:
    console = Console(file=io.StringIO(), width=100)
    parts = {"train": 7}
    dropped = {"not s ~ '[a-z]' OR s = '[/b]'": 3}
    show_data({"name": "log", "items": 5, "parts": parts, "contents": [], "dropped": dropped}, console)
    assert "not s ~ '[a-z]' OR s = '[/b]'" in console.file.getvalue()  # type: ignore[attr-defined]


def test_a_run_is_resumed_only_if_asked() -> None:
    given = [[], ["--resume"], ["--resume-if-any"]]
    assert [parser().parse_args(["fit", *each]).resume for each in given] == [False, True, None]
    with pytest.raises(SystemExit):
        parser().parse_args(["fit", "--resume", "--resume-if-any"])


def test_fit_prints_one_document(run: Any, made: Made) -> None:
    code, output, said = run("fit", "--config", made.config, "--json")
    assert (code, output.count("\n"), said) == (0, 1, "")
    found = json.loads(output)
    assert found["reused"]
    assert found["run_id"] == made.run.info.run_id
    assert found["tracking_uri"] == made.uri
    assert found["split_hash"] == made.dataset.split_hash
    for name in ("recall_at_10", "bm25_recall_at_10", "training_s", "pairs_per_s"):
        assert found["metrics"][name] == made.metrics[name]


ROWS = ("", "bm25_", "bm25_full_", "tfidf_", "start_")


def test_fit_tells_the_figures_beside_those_of_bm25(run: Any, made: Made) -> None:
    code, output, _ = run("fit", "--config", made.config)
    assert code == 0
    assert f"run {made.run.info.run_id}, unchanged since it was trained" in output
    (line,) = (line for line in output.splitlines() if line.split()[:1] == ["recall@10"])
    metrics = made.metrics
    assert line.split()[1:] == [f"{metrics[prefix + 'recall_at_10']:.4f}" for prefix in ROWS]


def test_a_configuration_that_is_not_there_or_wrong_is_misuse(run: Any, stdlib: Path, tmp_path: Path) -> None:
    write_toml(stdlib, tmp_path / "wrong.toml", training={"epoch": 3})
    for command in ("data", "fit"):
        for name, expected in (("none", "there is no such file"), ("wrong", "training.epoch: unknown key")):
            code, output, said = run(command, "--config", tmp_path / f"{name}.toml", "--json")
            assert (code, output) == (2, "")
            assert f"{name}.toml: {expected}" in said


def test_data_at_fault_is_a_failure_that_names_the_file(run: Any, stdlib: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.parquet").write_text("no table")
    changed: Any = {"data": {"pairs": str(tmp_path / "pairs.parquet")}}
    code, output, said = run("data", "--config", write_toml(stdlib, tmp_path / "a.toml", **changed))
    assert (code, output) == (1, "")
    assert "pairs.parquet: not a readable Parquet file" in said


def test_data_of_a_service_are_shown_and_written_as_tables(run: Any, stdlib: Path, tmp_path: Path) -> None:
    pairs = pl.read_parquet(stdlib / "pairs.parquet").head(300)
    items = pairs["item_id"].unique(maintain_order=True).to_list()
    answers, events = [], []
    for n, (query, item) in enumerate(pairs.select("query", "item_id").iter_rows()):
        shown = [items[n % len(items)], item] if items[n % len(items)] != item else [item]
        answers.append(Answer(f"r{n}", START + n * 60, shown, {"text": query}))
        events.append(event("u", item, START + n * 60, f"r{n}"))
    write_log(tmp_path / "served", [*answers, Answer("end", START + 2e5, items[:1], {"text": "end"})])
    write_events(tmp_path / "events.parquet", events)
    write_toml(stdlib, tmp_path / "before.toml")
    data = {"before": "before.toml", "before_weight": 0.5, "log": "served", "events": "events.parquet"}
    path = write_toml(stdlib, tmp_path / "loop.toml", data={"kind": "service", **data}, split={"by": "time"})
    lines = [
        line
        for line in path.read_text().splitlines()
        if line.partition(" ")[0] not in ("items", "pairs", "group", "display")
    ]
    path.write_text("\n".join(lines))
    code, output, said = run("data", "--config", path, "--tables", tmp_path / "tables")
    assert code == 0, said
    assert "service: 300 answers of 2026-12-01T00:00:00Z to 2026-12-01T04:59:00Z, with 300 clicks" in output
    assert "300 pairs of the service" in output and f"tables: {tmp_path / 'tables'}" in output
    written = pl.read_parquet(tmp_path / "tables" / "pairs.parquet")
    assert set(written.filter(pl.col("part") == "test")["item_id"]) <= set(items)
    assert {"item_id", "part", "weight"} <= {*written.columns}
