"""Runs of several ranks, most under torchrun: quality, an end for all with any, another count, two nodes."""

import json
import shutil
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import psutil
import pytest

from tests.helpers import watched
from tests.helpers.ports import held_port
from tests.helpers.rank_pair import environments, outcomes
from tests.helpers.stdlib import PLAIN, QUICK, Sections, write_toml
from tests.helpers.waiting import wait_until
from tests.helpers.warm import WarmPython, warm_executable
from tests.train.training.test_run import environment, only_run, warm_command
from twinspire.train.models.encoders import ROWS_FROM
from twinspire.train.training.checkpoint import RUN_STATE

pytestmark = [pytest.mark.exhaustive, pytest.mark.timeout(900)]  # several trainings each

TORCHRUN = ("-m", "torch.distributed.run")
LOCAL = ("--standalone", "--local-addr", "127.0.0.1", "--nproc-per-node")
SPLIT: Any = {"tower": {"buckets": ROWS_FROM // 64}}  # a table that ranks split
LONG_RUN: Any = {"training": {"epochs": 12, "batch_size": 16, "patience": 12, "threads": 1}, **SPLIT}


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Callable[..., WarmPython]]:
    """Starts commands under torchrun, whose ranks are warm, and ends what a failed test has left of them."""
    started: list[WarmPython] = []

    def start(config: Path, folder: Path, launch: tuple[str, ...], *arguments: str) -> WarmPython:
        command = (
            *TORCHRUN,
            *launch,
            "-m",
            "twinspire.train",
            "fit",
            "--config",
            str(config),
            "--json",
            *arguments,
        )
        variables = {"OMP_NUM_THREADS": "1", "PYTHON_EXEC": str(python)}
        started.append(WarmPython(*command, env={**environment(folder), **variables}))
        return started[-1]

    with warm_executable(tmp_path / "python", Path(sys.executable)) as python:
        yield start
        for process in started:
            for each in [] if process.poll() is not None else ranks_of(process):
                each.kill()
            process.kill()
            process.communicate()


def ranks_of(launcher: WarmPython) -> list[psutil.Process]:
    """The processes that torchrun has started, by their rank."""
    found = [each for each in psutil.Process(launcher.pid).children() if "twinspire.train" in each.cmdline()]
    return sorted(found, key=lambda each: int(each.environ()["RANK"]))


def in_store(empty_store: Path, folder: Path) -> Path:
    """A folder with a store of MLflow of its own."""
    folder.mkdir(exist_ok=True)
    shutil.copy(empty_store, folder / "mlflow.db")
    return folder


def when_an_epoch_has_ended(process: WarmPython, folder: Path, epochs: int) -> None:
    """Wait until a run has logged this number of epochs, also before it was resumed, and saved its state."""

    def has_ended() -> bool:
        assert process.poll() is None, "the run ended too early"
        try:
            run = only_run(folder)
        except ValueError:  # no experiment, or no run yet
            return False
        saved = [*folder.glob(f"cache/runs/*/{RUN_STATE}")]
        losses = mlflow.MlflowClient(f"sqlite:///{folder / 'mlflow.db'}").get_metric_history(
            run.info.run_id, "train/loss"
        )
        return bool(saved) and len(losses) >= epochs

    wait_until(has_ended, 300)


def same_quality(ours: dict[str, float], theirs: dict[str, float], within: float = 0.015) -> None:
    """The metrics of two runs that differ by rounding; 0.015 are two test queries of `stdlib`."""
    for name in ("recall_at_10", "ndcg_at_10", "mrr_at_10"):
        assert ours[name] == pytest.approx(theirs[name], abs=within)


def same_quality_as_one_process(config: Path, folder: Path, output: str) -> None:
    """Train the configuration in one process, with its own store, and compare with a command's output."""
    reference = warm_command(config, folder)
    expected, said = reference.communicate(timeout=250)
    assert reference.returncode == 0, said
    same_quality(json.loads(output)["metrics"], json.loads(expected)["metrics"])


def ranks_on(config: Path, folder: Path, count: int) -> list[tuple[int, str, str]]:
    """Train with some ranks that no launcher has started; of each, exit code, stdout and stderr."""
    command = ("-m", "twinspire.train", "fit", "--config", str(config), "--json")
    with environments(count) as ranks:
        return outcomes([({**environment(folder), **each}, command) for each in ranks])


def test_a_run_goes_on_with_another_number_of_ranks_to_the_same_quality(
    stdlib: Path, empty_store: Path, tmp_path: Path, start: Callable[..., WarmPython]
) -> None:
    config = write_toml(stdlib, tmp_path / "a.toml", sections={**PLAIN, **QUICK}, **LONG_RUN)
    straight, broken = (in_store(empty_store, tmp_path / name) for name in ("straight", "broken"))

    first = start(config, broken, (*LOCAL, "2"), "--resume-if-any")  # there is none
    when_an_epoch_has_ended(first, broken, 1)
    others = ranks_of(first)
    others[1].kill()
    output, said = first.communicate(timeout=150)
    assert first.returncode == 1, said
    assert not output
    assert "fit --config" in said and "goes on" in said  # rank 0 says so
    failed = only_run(broken)
    assert failed.info.status in ("FAILED", "KILLED")  # whether rank 0 or torchrun was the first to notice
    assert failed.data.tags["ranks"] == "2"
    assert not any(each.is_running() for each in others)

    second = start(config, broken, (*LOCAL, "3"), "--resume-if-any")
    when_an_epoch_has_ended(second, broken, 2)
    others = ranks_of(second)
    assert len(others) == 3
    second.send_signal(signal.SIGINT)  # as a terminal sends Ctrl-C
    _, said = second.communicate(timeout=150)
    assert second.returncode != 0
    assert said.count("goes on with run") == 1
    assert only_run(broken).info.status == "KILLED"
    assert not any(each.is_running() for each in others)

    third = warm_command(config, broken, "--resume")
    output, said = third.communicate(timeout=250)
    assert third.returncode == 0, said
    assert only_run(broken).info.run_id == failed.info.run_id
    assert (only_run(broken).info.status, only_run(broken).data.tags["ranks"]) == ("FINISHED", "1")
    same_quality_as_one_process(config, straight, output)


def test_all_end_with_rank_0(
    stdlib: Path, empty_store: Path, tmp_path: Path, start: Callable[..., WarmPython]
) -> None:
    config = write_toml(stdlib, tmp_path / "a.toml", sections={**PLAIN, **QUICK}, **LONG_RUN)
    folder = in_store(empty_store, tmp_path)
    process = start(config, folder, (*LOCAL, "2"))
    when_an_epoch_has_ended(process, folder, 1)
    others = ranks_of(process)
    others[0].kill()
    _, said = process.communicate(timeout=150)
    assert process.returncode == 1, said
    gone, alive = psutil.wait_procs(others, timeout=30)
    assert (len(gone), alive) == (2, [])


def test_two_nodes_train_as_one_process_and_a_finished_run_is_not_trained_again(
    stdlib: Path, empty_store: Path, tmp_path: Path, start: Callable[..., WarmPython]
) -> None:
    short: Any = {"training": {"epochs": 3, "batch_size": 16, "threads": 1}, **SPLIT}
    config = write_toml(stdlib, tmp_path / "a.toml", sections={**PLAIN, **QUICK}, **short)
    alone, both = (in_store(empty_store, tmp_path / name) for name in ("alone", "both"))
    with held_port() as port:
        place = ("--nnodes", "2", "--nproc-per-node", "1", "--master-addr", "127.0.0.1")
        meeting = (*place, "--master-port", str(port), "--node-rank")
        nodes = [start(config, both, (*meeting, str(node))) for node in (0, 1)]
        printed = [each.communicate(timeout=250) for each in nodes]
    trained = [(each.returncode, *texts) for each, texts in zip(nodes, printed, strict=True)]
    again = ranks_on(config, both, 2)
    for found, reused in ((trained, False), (again, True)):
        (_, output, said), (_, nothing, other) = found
        assert [code for code, *_ in found] == [0, 0], said + other
        assert not nothing
        assert "recall@10" not in other
        assert json.loads(output)["reused"] == reused
    assert only_run(both).data.tags["ranks"] == "2"
    same_quality_as_one_process(config, alone, output)


def test_a_refit_of_two_ranks_is_that_of_one_process(films: Path, empty_store: Path, tmp_path: Path) -> None:
    sections: Sections = {**watched.ATTENTION, "baselines": {"run": ["popularity"]}}
    without = {"input_dropout": 0.0, "dropout": 0.0}  # of which each rank draws its own
    changed: Any = {"training": {"epochs": 2, "refit": True, "average_epochs": 1}, "tower": without}
    config = watched.write_toml(films, tmp_path / "a.toml", sections=sections, **changed)
    found = []
    for name in ("two", "one"):
        folder = in_store(empty_store, tmp_path / name)
        ranks = ranks_on(config, folder, 2 if name == "two" else 1)
        assert [code for code, *_ in ranks] == [0] * len(ranks), ranks
        output, said = ranks[0][1], "".join(said for _, _, said in ranks)
        assert said.count("training anew on training and validation pairs together") == 1
        found.append(json.loads(output)["metrics"])
    same_quality(found[0], found[1], within=0.01)
    assert found[0]["refit_loss"] == pytest.approx(found[1]["refit_loss"], rel=1e-3)


def test_ranks_with_other_settings_or_data_are_refused(
    stdlib: Path, empty_store: Path, tmp_path: Path
) -> None:
    folder = in_store(empty_store, tmp_path)
    commands = []
    with environments() as ranks:
        for seed, each in enumerate(ranks):
            changed: Any = {"training": {"seed": seed, "threads": 1}}
            config = write_toml(stdlib, tmp_path / f"{seed}.toml", sections={**PLAIN, **QUICK}, **changed)
            command = ("-m", "twinspire.train", "fit", "--config", str(config))
            commands.append(({**environment(folder), **each}, command))
        (_, _, said), (code, _, other) = outcomes(commands)
    assert code == 1
    assert "error: rank 1: settings, data or code are not those of rank 0" in other
    assert "error: rank 0 of 2: the connection to the other ranks is lost" in said
