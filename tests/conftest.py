"""What several folders of tests share: places of their own, a store that was made once, a trained bundle.

Nothing here imports torch or MLflow before a test asks for them, so that the tests of serving run
where neither is installed.
"""

import gc
import io
import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hypothesis
import pytest

from tests.helpers import tables
from tests.helpers.code_keys import read_code_once
from tests.helpers.operators import read_operators_once
from tests.helpers.shared import shared_folder
from twinspire.protos.system import timing
from twinspire.protos.system.cores import usable_cores
from twinspire.serving import environment  # noqa: F401  # before any test imports gRPC, which reads its variables then

if TYPE_CHECKING:
    from rich.console import Console

    from tests.helpers.stdlib import Made
    from tests.helpers.vector_databases import Engine

LONG_S = 300.0  # a test that is allowed more than this is one to begin with
LAST_MODULE = pytest.StashKey[Path]()  # of the test that ran before
SHORT = (LONG_S, False)  # `_length` of a module without long and without exhaustive tests
WARM_UP, FIRST = timing.WARM_UP, timing.FIRST  # as outside of tests; see `pytest_runtest_setup`

hypothesis.settings.register_profile("seeded", derandomize=True, deadline=None)


def pytest_configure(config: pytest.Config) -> None:
    """Keep what the stages cache out of the checkout, and MLflow off the network."""
    config.addinivalue_line("filterwarnings", "ignore::Warning:mlflow")  # of what it does itself
    hypothesis.settings.load_profile("seeded")
    os.environ["TWINSPIRE_CACHE"] = tempfile.mkdtemp(prefix="twinspire-tests-")
    os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"
    parallel = getattr(config.option, "numprocesses", None)
    if parallel:  # the processes that this one starts import NumPy, which reads this, before their hook
        os.environ.setdefault("OMP_NUM_THREADS", "1")  # each has a core, not all of them
        os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # tests with two threads wait for a busy core
    for name in ("MAKELEVEL", "MAKEFLAGS", "MFLAGS", "TWINSPIRE_MAKE"):  # of the make that runs the tests
        os.environ.pop(name, None)
    # Tests start hundreds of processes. With this variable each of them would compile this project's modules
    # anew, and take up to twice as long to import them.
    os.environ.pop("PYTHONDONTWRITEBYTECODE", None)
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # as in a shell's background job
        signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ["MLFLOW_SERVER_ENABLE_JOB_EXECUTION"] = "false"  # a tracking server alone is enough
    if not parallel:  # with several processes, this one imports no tests
        gc.disable()  # until all tests are imported: looking for garbage takes a fifth of that time


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """Run three processes for two cores with `-n logical` and `-n auto`: many tests wait for a service."""
    return int(os.environ.get("PYTEST_XDIST_AUTO_NUM_WORKERS", -(-3 * usable_cores() // 2)))


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> Iterator[None]:
    """Let each process begin with modules of long tests.

    A long module that begins last would keep one process busy while the others have no tests left.
    """
    for item in items:
        if item.get_closest_marker("quiet") and "mark.quiet" not in item.path.read_text():
            raise pytest.UsageError(f"{item.path}: `make test-quiet` finds files by the words `mark.quiet`")
    yield  # other hooks deselect tests here, by -m and -k
    modules: dict[Path, list[pytest.Item]] = {}
    for item in items:
        modules.setdefault(item.path, []).append(item)
    lengths = {path: _length(module) for path, module in modules.items()}
    order = sorted(modules, key=lambda path: lengths[path], reverse=True)
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    parts: list[list[pytest.Item]] = [
        [] for _ in range(processes)
    ]  # `--dist worksteal` gives each a slice of this size
    for n, path in enumerate(path for path in order if lengths[path] > SHORT):
        parts[n % processes] += modules[path]
    quick = [item for path in order if lengths[path] == SHORT for item in modules[path]]
    for n, part in enumerate(parts):
        left = len(quick) + sum(map(len, parts[n:]))
        share = max(0, left // (processes - n) - len(part))
        part += quick[:share]
        del quick[:share]
    items[:] = [item for part in parts for item in part] + quick


def _length(module: list[pytest.Item]) -> tuple[float, bool]:
    """The longest time that a test of a module is allowed, and whether some run in `make test-all` only."""
    allowed = [marker.args[0] for item in module if (marker := item.get_closest_marker("timeout"))]
    return max([LONG_S, *allowed]), any(item.get_closest_marker("exhaustive") for item in module)


def pytest_collection_finish() -> None:
    """Read torch's operators and our own code once, and leave imported modules out of garbage collections."""
    if "twinspire.export.onnx.export" in sys.modules:
        read_operators_once()
    if "twinspire.train.fingerprint" in sys.modules:
        read_code_once()
    _freeze()
    gc.enable()


def _freeze() -> None:
    """Exclude all objects that exist now from later garbage collections, after a last one.

    A full collection that scans all imported modules takes half a second, and many tests, and the code that
    they test, collect. What the tests of one module leak in a cycle is found by that last collection, so
    pytest reports it for the first test of the next module.
    """
    gc.collect()
    gc.freeze()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Freeze what the tests of another module have left; time calls as the test needs.

    Calls are timed without a warm-up, except in tests marked `quiet`: the others check no times. This saves
    two seconds for each bundle. A bundle that several tests share is timed as the first of them asks, so no
    test may compare the times in its manifest.
    """
    if item.path != item.session.stash.get(LAST_MODULE, None):
        item.session.stash[LAST_MODULE] = item.path
        _freeze()  # the fixtures of that module have ended, and those of this one have not begun
    is_quiet = item.get_closest_marker("quiet") is not None
    timing.WARM_UP, timing.FIRST = (WARM_UP, FIRST) if is_quiet else (0.0, 2)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A process of several hands its tables to the one that prints them."""
    output = getattr(session.config, "workeroutput", None)
    if output is not None:
        output["tables"] = tables.TABLES


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: Any) -> None:
    """Take the tables of a process that is done."""
    for title, lines in getattr(node, "workeroutput", {}).get("tables", {}).items():
        tables.TABLES.setdefault(title, []).extend(lines)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the tables that tests have to show."""
    for title, lines in tables.TABLES.items():
        terminalreporter.section(title)
        for line in lines:
            terminalreporter.write_line(line)


def pytest_unconfigure() -> None:
    shutil.rmtree(os.environ["TWINSPIRE_CACHE"], ignore_errors=True)


@pytest.fixture(autouse=True)
def no_run_left_active() -> Iterator[None]:
    """End the run that a failed test left active: each later test of the process would fail on it."""
    yield
    if "mlflow" in sys.modules:
        import mlflow

        while mlflow.active_run():
            mlflow.end_run("FAILED")


@pytest.fixture
def console() -> "Console":
    """A console whose output is discarded."""
    from rich.console import Console

    return Console(file=io.StringIO())


@pytest.fixture
def progress(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """What the commands of train and export show while they work."""
    from twinspire.train.progress import PROGRESS

    shown = io.StringIO()
    monkeypatch.setattr(PROGRESS, "_file", shown)
    return shown


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An MLflow database in which nothing was tracked yet: making one takes seconds, copying it none."""

    def make(folder: Path) -> None:
        import mlflow

        from twinspire.train.training.tracking import connect

        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("MLFLOW_TRACKING_URI", "")
            try:
                connect(folder)
            finally:  # before the variable has its old value again, since MLflow removes it
                mlflow.set_tracking_uri(None)  # type: ignore[arg-type]

    return shared_folder(tmp_path_factory, "empty-store", make) / "mlflow.db"


@pytest.fixture
def store(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    """The URI of an MLflow store of this test's own, which MLflow points at."""
    from tests.helpers.stdlib import tracking_at

    (tmp_path / "mlruns").mkdir()
    database = shutil.copy(empty_store, tmp_path / "mlruns" / "mlflow.db")
    with tracking_at(f"sqlite:///{database}") as uri:
        yield uri


@pytest.fixture(scope="session")
def stdlib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the items and pairs of `tests.helpers.stdlib`."""
    from tests.helpers.stdlib import write_tables

    return shared_folder(tmp_path_factory, "stdlib", write_tables)


@pytest.fixture(scope="session")
def made_once(stdlib: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> "Made":
    """A run and its bundle, made once; tests read them and change nothing."""
    from tests.helpers.stdlib import make, shared_made

    return shared_made(tmp_path_factory, "made", lambda folder: make(stdlib, empty_store, folder))


@pytest.fixture
def made(made_once: "Made") -> Iterator["Made"]:
    """`made_once`, with MLflow pointing at its store."""
    from tests.helpers.stdlib import tracking_at

    with tracking_at(made_once.uri):
        yield made_once


@pytest.fixture(scope="session")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the log of `tests.helpers.watched`."""
    from tests.helpers.watched import write_log

    return shared_folder(tmp_path_factory, "films", write_log)


@pytest.fixture(scope="session")
def films_made(films: Path, empty_store: Path, tmp_path_factory: pytest.TempPathFactory) -> "Made":
    """A run on what people watched in which order, and its bundle; tests read them and change nothing."""
    from tests.helpers.stdlib import make_of, shared_made
    from tests.helpers.watched import write_toml

    def make(folder: Path) -> "Made":
        return make_of(write_toml(films, folder / "watched.toml"), empty_store, folder)

    return shared_made(tmp_path_factory, "films-made", make)


@pytest.fixture(scope="session")
def pgvector_cluster() -> Iterator[str]:
    """A PostgreSQL cluster whose databases can have pgvector; its URI."""
    from tests.helpers.postgres import pgvector_programs, running

    programs = pgvector_programs()
    assert programs is not None  # tests are marked `needs_pgvector`
    with running(programs) as server:
        yield server.uri


@pytest.fixture
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator["Engine"]:
    """An empty vector database; its name in `ENGINES` or `SERVERS` is the parameter."""
    from tests.helpers.vector_databases import empty_engine

    with empty_engine(request.param, request, tmp_path) as made:
        yield made
