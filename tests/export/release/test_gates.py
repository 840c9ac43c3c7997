"""Each challenger that is worse by design is refused by the gate that should; an equal one is accepted."""

import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from rich.console import Console

from tests.helpers import altered
from tests.helpers.releases import no_data
from tests.helpers.stdlib import DSSM, QUICK, Made, experiment_at, tracking_copy, write_toml
from twinspire.export.bundle_builder import build_bundle
from twinspire.export.release.decision_report import write_report
from twinspire.export.release.gate import Decision
from twinspire.export.release.promote import compare_versions
from twinspire.protos import bundle
from twinspire.train.markdown import plain
from twinspire.train.training.run import fit

pytestmark = [pytest.mark.exhaustive, pytest.mark.quiet]  # gates of latency measure
ROOT = Path(__file__).parents[3]

ONE_STEP = {"training": {"epochs": 1, "batch_size": 4096}}
# Python runs it at the start of each process that has its folder in PYTHONPATH. Without it, so few items are
# compared with each query, and the graph is not searched.
SEARCH_THE_GRAPH = """
from twinspire.protos.nearest import search
search.EXACT_SHARE = 1
"""
# What refuses each challenger.
EXPECTED = {
    "equal": set(),
    "trained one step": {"quality"},
    "weights altered": {"parity"},
    "tower truncated": {"load_time"},
    "ef_search 1": {"index_recall"},
    "index slowed down": {"retriever_latency"},
    "tower slowed down": {"query_tower_latency", "retriever_latency"},
}


@pytest.fixture(scope="module")
def tracked(made_once: Made, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with a copy of the store of `made_once`, which MLflow points at."""
    folder = tmp_path_factory.mktemp("gates")
    with tracking_copy(made_once, folder):
        yield folder


@pytest.fixture(scope="module")
def one_step(stdlib: Path, tracked: Path) -> Path:
    """The bundle of a model of the paper's that was trained for one step, on the same split."""
    console = Console(quiet=True)
    experiment, dataset = experiment_at(
        write_toml(stdlib, tracked / "a.toml", "step", {**DSSM, "baselines": QUICK["baselines"]}, **ONE_STEP)
    )
    run, _ = fit(experiment, dataset, console)
    return build_bundle(experiment, dataset, run)[0]


Decide = Callable[[str], Decision]


@pytest.fixture(scope="module")
def decide(made_once: Made, tracked: Path, request: pytest.FixtureRequest) -> Decide:
    """The decision on a challenger, by its name in `EXPECTED`; each is made once."""
    champion = made_once.folder
    changes: dict[str, Callable[[Path], object]] = {
        "equal": altered.annotate,
        "weights altered": altered.disturb,
        "tower truncated": altered.truncate,
        "tower slowed down": altered.slow_down,
    }
    widths = {"ef_search 1": 1, "index slowed down": 700}
    (tracked / "sitecustomize.py").write_text(SEARCH_THE_GRAPH)

    @functools.cache
    def found(name: str) -> Decision:
        if name == "trained one step":
            folder = request.getfixturevalue("one_step")
        elif name in widths:
            folder = altered.altered(champion, tracked, **altered.with_ef(champion, widths[name]))
        else:
            folder = altered.altered(champion, tracked, changes[name])
        sides = altered.side("2", folder), altered.side("1", champion)
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("PYTHONPATH", f"{tracked}{os.pathsep}{ROOT / '.import'}")
            return compare_versions(*sides, made_once.experiment, no_data)

    return found


@pytest.mark.parametrize("name", EXPECTED)
def test_each_challenger_meets_its_gate(decide: Decide, tmp_path: Path, name: str) -> None:
    decision = decide(name)
    assert {result.name for result in decision.refused} == EXPECTED[name]
    write_report(decision, tmp_path)
    content = json.loads((tmp_path / "decision.json").read_text())
    assert content["accepted"] == (not EXPECTED[name])
    assert {*content["refused"]} == EXPECTED[name]
    page = (tmp_path / "decision.md").read_text()
    assert page.startswith(f"# {decision.challenger.manifest.name}: version 2 is ")
    assert page.count("**refuse**") == len(EXPECTED[name])
    for result in decision.results:
        assert plain(result.text) in page


def test_what_cannot_be_measured_is_not_said_to_hold(decide: Decide) -> None:
    left_out = ["parity", "index_recall", "query_tower_latency", "retriever_latency"]
    decision = decide("tower truncated")
    assert decision.measured["not_measured"] == left_out
    assert not {result.name for result in decision.results} & {*left_out}
    assert decide("equal").measured["not_measured"] == []
    (refused,) = decision.refused
    assert f"{bundle.QUERY_TOWER}" in refused.text


def test_figures_are_those_of_the_files(decide: Decide, made_once: Made) -> None:
    claimed = bundle.read(made_once.folder).ann["ann_recall_at_10"]
    (refused,) = decide("ef_search 1").refused
    assert refused.figure is not None
    assert refused.figure < refused.bound < claimed
    equal = decide("equal")
    recall = equal.measured["index_recall"]
    assert (
        recall["claimed"] == claimed >= recall["recall"] > refused.bound
    )  # by exact search, and by the graph
    files = (path for path in equal.challenger.folder.rglob("*") if path.is_file())
    assert equal.measured["size"]["challenger"] == sum(path.stat().st_size for path in files) / 2**20
    for each in equal.measured["parity"].values():
        assert 0 < each["max_abs_diff"] < 1e-5
    assert equal.measured["quality"]["differences"]["recall_at_10"] == {"mean": 0, "low": 0, "high": 0}
    means = equal.measured["quality"]["means"]["challenger"]
    for name in ("recall_at_10", "ndcg_at_10", "mrr_at_10", "hr_at_50"):
        assert means[name] == pytest.approx(bundle.read(made_once.folder).quality[name], abs=1e-6)
