"""The commands and the Python of the READMEs run: on one small bundle, in a copy of the checkout.

Where a page runs `make demo`, it runs here with a tenth of the demo's items, few timed calls and a fixed
precision (`LESS`). `.ci/run` runs `make demo` with another experiment, which chooses the precision.
"""

import os
import re
import shlex
import shutil
import signal
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.helpers.ports import held_port
from tests.helpers.small_environment import make_environment
from tests.helpers.warm import warm_executable
from twinspire.protos import __version__

ROOT = Path(__file__).parents[1]
PAGES = (
    "README.md",
    "CONTRIBUTING.md",
    *(f"{stage}/README.md" for stage in ("protos", "train", "export", "serving")),
    *(
        f"train/{room}/README.md"
        for room in ("data", "data/sources", "docs", "evaluation", "losses", "models", "training")
    ),
    *(f"{stage}/RESULTS.md" for stage in ("train", "export", "serving")),
    "export/served_traffic/README.md",
    "export/refresh/README.md",
    "export/retrain/README.md",
    *(f"serving/{room}/README.md" for room in ("events", "filters", "gateway", "live", "segments")),
    *(f"serving/{room}/README.md" for room in ("observability", "retrieval", "rollout")),
)
TUTORIAL = "train/docs/tutorial.md"
DEMO = "train/configs/pydocs-small.toml"
LESS = (
    "less.toml"  # that experiment, with a tenth of the items, few timed calls, and no choice of a precision
)
PLAIN_TABLES = '[precision]\nquery = "fp32"\nitem = "fp32"\n'
ADDRESS = "127.0.0.1:50051"  # as the READMEs say it; the test's server listens elsewhere
# Commands that take long are only looked up in the Makefile; `.ci/run` and other tests run them.
LOOKED_UP = re.compile(
    r"make (test|lint|setup|ui|bench|loadtest|gatewaytest|swaptest|filtertest|livetest|remotetest"
    r"|test-hostile|serve|data|clean)\b"
)
HTTP_ADDRESS = "127.0.0.1:8080"  # of the gateway, in the same way
SECONDS = 900.0  # of one command
LONGEST_PAGE = 250  # lines


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    Args:
        page: that it is in, relative to the checkout.
        line: number of its first line.
        language: after the fence.
        text: of the block.
    """

    page: str
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{self.page}:{self.line}"


def blocks(*languages: str, among: Sequence[str] = PAGES) -> list[Block]:
    """All blocks in these languages, in the order of the pages."""
    return [
        Block(page, token.map[0] + 1, token.info.strip(), token.content)
        for page in among
        for token in MarkdownIt().parse((ROOT / page).read_text())
        if token.type == "fence" and token.info.strip() in languages and token.map
    ]


def commands(block: Block) -> list[str]:
    """The commands of a block, without comments."""
    lines = (line.partition("  #")[0].strip() for line in block.text.splitlines())
    return [line for line in lines if line]


def files() -> list[str]:
    """The files of the checkout that git does not ignore, relative to it."""
    command = ["git", "ls-files", "-co", "--exclude-standard"]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.splitlines()


def pages() -> list[Path]:
    """All Markdown files of the checkout."""
    return [ROOT / name for name in files() if name.endswith(".md") and (ROOT / name).is_file()]


def links(page: Path) -> list[str]:
    """The targets of a page's links and images within the checkout."""
    inline = [
        child
        for token in MarkdownIt().enable("table").parse(page.read_text())
        for child in token.children or ()
    ]
    targets = [str(child.attrs.get("href", child.attrs.get("src", ""))) for child in inline]
    return [target for target in targets if target and "://" not in target]


def anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    tokens = MarkdownIt().parse(page.read_text())
    titles = [after.content for token, after in pairwise(tokens) if token.type == "heading_open"]
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


def context(block: Block) -> bool:
    """Whether a block asks a bundle of histories."""
    return "history=" in block.text


def apart(block: Block) -> bool:
    """Whether a test of its own runs a block: one of histories, or one for Ray (`test_ray.py`)."""
    return context(block) or "from ray." in block.text


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of the checkout in which `make demo` has run twice; the second made nothing anew."""
    folder = tmp_path_factory.mktemp("checkout")
    copy_checkout(folder)
    for block in [*blocks("python"), *blocks("toml")]:
        if name := named(block):
            (folder / name).write_text(block.text)
    whole = (folder / DEMO).read_text()
    fewer = whole.replace("max_items = 20_000", "max_items = 2_000")
    assert fewer != whole
    (folder / LESS).write_text(f"{fewer}\n[export]\niterations = 50\n{PLAIN_TABLES}")
    run(folder, "git init -q . && make demo", 0)
    made = counts(folder)
    run(folder, "make demo", 0)
    assert counts(folder) == made
    return folder


def copy_checkout(folder: Path) -> None:
    """Copy the files that git does not ignore, and make an environment beside them."""
    for name in files():
        if (ROOT / name).is_file():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, folder / name)
    make_environment(folder / ".venv")
    (folder / ".venv" / ".installed").touch()  # the stamp of `make setup`


def warm(venv: Path) -> AbstractContextManager[Path]:
    """Within the block, the commands of train and export that this environment runs are forks."""
    whole = (venv / "bin").resolve()
    (venv / "bin").unlink()
    (venv / "bin").mkdir()
    for each in whole.iterdir():
        if each.name != "python":
            (venv / "bin" / each.name).symlink_to(each)
    return warm_executable(venv / "bin" / "python", venv / "bin" / "python3")


def counts(checkout: Path) -> tuple[int, ...]:
    """The numbers of runs, of registered versions, and of bundles."""
    with closing(sqlite3.connect(checkout / "mlruns" / "mlflow.db")) as store:
        tables = [store.execute(f"SELECT count(*) FROM {name}") for name in ("runs", "model_versions")]
        return *(each.fetchone()[0] for each in tables), len([*(checkout / ".cache" / "bundles").iterdir()])


def is_whole(block: Block) -> bool:
    """Whether a block is a whole experiment."""
    return "[data]" in block.text or "data.kind" in block.text


def named(block: Block) -> str:
    """The file that a block is, by the comment in its first line; empty if it is none."""
    found = re.match(r"# ([\w-]+\.(?:py|toml))\n", block.text)
    return found[1] if found else ""


@pytest.fixture(scope="module")
def port(checkout: Path) -> Iterator[int]:
    """Where a server of that checkout, started by `make serve`, listens; it takes writes and events."""
    with held_port() as number, server(checkout, "make serve 'FLAGS=--catalogue --events'", number):
        yield number


@contextmanager
def server(folder: Path, command: str, port: int) -> Iterator[None]:
    """A service that a command starts on a port; it listens while the block lasts."""
    log = folder / "serve.log"
    with log.open("wb") as file:
        started = subprocess.Popen(shlex.split(command), cwd=folder, env=environment(port), stderr=file)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as client:
                if client.connect_ex(("127.0.0.1", port)) == 0:
                    break
            assert started.poll() is None, log.read_text()
            time.sleep(0.1)
        else:
            pytest.fail(f"no server listens: {log.read_text()}")
        yield
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(30)


@pytest.fixture(scope="module")
def http_port(checkout: Path, port: int) -> Iterator[int]:
    """Where a gateway of that server listens."""
    with gateway(checkout, port) as number:
        yield number


@contextmanager
def gateway(folder: Path, port: int) -> Iterator[int]:
    """The port of a gateway, started by `make serve-http`, of the service on `port`."""
    said = folder / "gateway.json"
    command = ["make", "serve-http", "HTTP_PORT=0", f"FLAGS=--port-file {said}"]
    started = subprocess.Popen(command, cwd=folder, env=environment(port))
    try:
        until = time.monotonic() + 60
        while not said.exists():
            assert started.poll() is None
            assert time.monotonic() < until, "no gateway listens"
            time.sleep(0.1)
        yield int(said.read_text())
    finally:
        started.send_signal(signal.SIGTERM)
        started.wait(30)


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", blocks("sh"), ids=str)
def test_the_commands_run(block: Block, checkout: Path, port: int, request: pytest.FixtureRequest) -> None:
    http_address = ""
    if HTTP_ADDRESS in block.text:
        http_address = f"127.0.0.1:{request.getfixturevalue('http_port')}"
    for command in commands(block):
        if command == "make demo":
            continue  # `checkout` has run it twice
        if LOOKED_UP.match(command):
            run(checkout, re.sub(r"^make", "make -n", command), port)
        else:
            run(checkout, command, port, http_address)


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
def test_the_tutorial_runs(tmp_path: Path) -> None:
    """From its first command to its last, with the files and the servers that it names.

    Commands that import torch and MLflow are forks; those of the READMEs are fresh processes.
    """
    copy_checkout(tmp_path)
    http_address, said = "", {}
    with warm(tmp_path / ".venv"), held_port() as port, ExitStack() as started:
        for block in blocks("sh", "toml", "python", among=[TUTORIAL]):
            if name := named(block):
                (tmp_path / name).write_text(block.text)
                continue
            if block.language == "python":
                (tmp_path / "example.py").write_text(block.text.replace(ADDRESS, f"127.0.0.1:{port}"))
            for command in commands(block) if block.language == "sh" else [".venv/bin/python example.py"]:
                if command.startswith("make serve "):
                    started.enter_context(server(tmp_path, command, port))
                elif command == "make serve-http":
                    http_address = f"127.0.0.1:{started.enter_context(gateway(tmp_path, port))}"
                else:
                    said[command] = run(tmp_path, command, port, http_address)
    assert said['make search Q="footwear" K=3'].count("boots") == 3  # no title has the word of the query
    assert "19.9 " in said['make search Q="indigo vintage boots" K=1']  # the new price, after the rollback


@pytest.mark.exhaustive
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("block", [each for each in blocks("python") if not apart(each)], ids=str)
def test_the_python_runs(block: Block, checkout: Path, port: int) -> None:
    (checkout / "example.py").write_text(block.text.replace(ADDRESS, f"127.0.0.1:{port}"))
    run(checkout, ".venv/bin/python example.py", port)


@pytest.mark.parametrize("block", [each for each in blocks("python") if context(each)], ids=str)
def test_the_python_of_histories_and_context_runs(
    block: Block, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a bundle of histories, which the demo's is not."""
    from tests.helpers.tiny import watched_bundle
    from tests.helpers.tiny_towers import VOCABULARIES
    from twinspire.protos.features import CategoryFeature, FeatureSpec, HistoryFeature
    from twinspire.serving.retrieval.retriever import Retriever
    from twinspire.serving.server import RetrievalServer

    for name, known in (("device", ("car", "phone")), ("hour", ("8", "9"))):
        monkeypatch.setitem(VOCABULARIES, f"query.{name}", known)
    features: dict[str, FeatureSpec] = {
        "history": HistoryFeature("history", 20),
        **{name: CategoryFeature("category", name) for name in ("device", "hour")},
    }
    folder = watched_bundle(tmp_path, features=features, examples=())
    with RetrievalServer(Retriever.load(folder)) as server:
        exec(block.text.replace(ADDRESS, server.address).replace('"title"', '"name"'), {})
    assert len(capsys.readouterr().out.splitlines()) == 5


@pytest.mark.parametrize(
    "block", [each for each in blocks("toml", among=[*PAGES, TUTORIAL]) if is_whole(each)], ids=str
)
def test_the_experiments_can_be_read(block: Block, tmp_path: Path) -> None:
    (tmp_path / "shop.toml").write_text(block.text)
    (tmp_path / "items.csv").write_text("item_id,title,price\n1,red shoes,10\n2,blue hat,5.5\n")
    (tmp_path / "clicks.csv").write_text("query,item_id\nshoes,1\nhat,2\nred,1\n")
    from twinspire.train.config import read_experiment

    experiment = read_experiment(tmp_path / "shop.toml")
    assert experiment.name


@pytest.mark.parametrize("page", [*PAGES, TUTORIAL, "serving/THREATS.md"])
def test_the_files_that_a_page_names_exist(page: str) -> None:
    text, stage = (ROOT / page).read_text(), (ROOT / page).parent
    names = {each for each in re.findall(r"`([\w/]+\.(?:py|md|toml|cfg|proto))`", text) if "/" in each}
    places = (ROOT, stage, stage.parent, *(each for each in stage.iterdir() if each.is_dir()))
    assert [name for name in sorted(names) if not any((each / name).is_file() for each in places)] == []


@pytest.mark.parametrize("page", [*PAGES, TUTORIAL])
def test_a_page_is_short(page: str) -> None:
    lines = len((ROOT / page).read_text().splitlines())
    assert lines <= LONGEST_PAGE


def test_links_lead_to_headings() -> None:
    missing = []
    for page in pages():
        for link in links(page):
            name, _, anchor = link.partition("#")
            target = page.parent / name if name else page
            if not target.exists() or (anchor and anchor not in anchors(target)):
                missing.append(f"{page.relative_to(ROOT)}: {link}")
    assert missing == []


def environment(port: int) -> dict[str, str]:
    """Of a command: the small experiment, the test's port, and the copy's own cache and store."""
    own = {"CONFIG": LESS, "PORT": str(port), "METRICS_PORT": "0"}
    outer = {key: value for key, value in os.environ.items() if not key.startswith(("TWINSPIRE_", "MLFLOW_"))}
    return {**outer, **own, "MLFLOW_DISABLE_TELEMETRY": "true"}


def run(folder: Path, command: str, port: int, http_address: str = "") -> str:
    """What a shell command prints there, with the addresses of the test; fails with that if it fails."""
    command = command.replace(ADDRESS, f"127.0.0.1:{port}").replace(HTTP_ADDRESS, http_address)
    command = re.sub("^curl ", "curl --fail-with-body ", command)
    done = subprocess.run(
        ["bash", "-euc", command],
        cwd=folder,
        env=environment(port),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    return done.stdout


def test_the_changelog_begins_with_this_version_and_dates_the_releases_before() -> None:
    headings = re.findall(r"^## (.*)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    date = r"\((20\d\d-\d\d-\d\d)\)"
    assert re.fullmatch(rf"{re.escape(__version__)} (\(unreleased\)|{date})", headings[0])
    assert all(re.fullmatch(rf"\d+\.\d+\.\d+ {date}", heading) for heading in headings[1:])
