"""`python -m tests.load remotetest`: a host whose items are on a vector database, with few items and many.

The usual commands train towers on a made shop, release them, and refresh them twice: with `--small` items,
and with `--items` of them, under the same ids with other titles. A service serves the larger catalogue, and
swaps to the smaller one under load (`export rollback`). Then a fresh service serves the smaller one.

An answer is right where the score of each hit is the product of the query's vector and that item's vector in
the bundle that the answer names; others count as `mixed`. The engine's server is the one that the environment
names, or else one that is started for the test.
"""

import json
import os
import random
import subprocess
import tempfile
import time
from argparse import Namespace
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import psutil
from rich.console import Console

from tests.helpers import milvus, postgres
from tests.helpers.answers import hits_of
from tests.helpers.scores import Hits
from tests.helpers.serving.swapping import Load
from tests.helpers.shop_logs import BRANDS, ITEMS_OF_A_NOUN, STYLES, write_shop
from tests.load import alias, report
from tests.load.cli.steps import result_or_failure
from tests.load.cli.swaptest import MIB, settled
from tests.load.load import percentile
from tests.load.plan import Target, missed
from tests.load.report import Report, machine_text, number, rounded
from tests.load.services import ROOT, Service
from twinspire.protos import bundle, entry_points
from twinspire.protos.bundle import PGVECTOR
from twinspire.protos.cli import Result
from twinspire.protos.documents import parse_json
from twinspire.protos.errors import MissingStage, Unavailable
from twinspire.protos.vector_databases.database import uri_variable
from twinspire.serving.benchmark.filter_measurement import recall
from twinspire.serving.client import RetrievalClient
from twinspire.serving.segments.vector_index import exact_index

NAME, K = "shop-made", 10
QUERIES, NOUNS = 200, 500  # different queries; they ask for nouns that the smallest catalogue has
BEFORE = 0.4  # share of the load's seconds before the swap
TOLERANCE = 1e-3  # of a score: the engine may round products of unit vectors in its own way
TARGETS = (
    Target("rss_ratio", "memory of a host, against one with fewer items", "<=", 1.1),
    Target("recall_at_10", "recall@10 against exact search", ">=", 0.95),
    Target("failed", "requests that failed, a swap included", "<=", 0),
    Target("mixed", "answers with hits of another bundle", "<=", 0),
    Target("p50_ms", "p50 of a search, ms"),
    Target("p99_ms", "p99 of a search, ms"),
    Target("build_s", "from the table of items to the champion, s"),
)


class Asked(NamedTuple):
    """An answer: the query's number, the version that it names, its hits, and its time."""

    query: int
    version: str
    hits: Hits
    ms: float


class Items:
    """The items of a bundle with their vectors, to compare answers with."""

    def __init__(self, folder: Path) -> None:
        self.folder, manifest = folder, bundle.read(folder)
        self.version, self.count = manifest.bundle_version, manifest.count
        self.index = exact_index(folder, manifest)
        ids = parse_json((folder / bundle.ITEMS).read_bytes())["ids"]
        self._rows = {item_id: row for row, item_id in enumerate(ids)}

    def holds(self, hits: Hits, query: np.ndarray) -> bool:
        """Whether all hits are items of this bundle, with the scores of a query (D,)."""
        rows = [self._rows.get(item_id, -1) for item_id, _ in hits]
        if len(rows) != K or -1 in rows:
            return False
        products = self.index.vectors(rows) @ query
        return bool(np.abs(products - [score for _, score in hits]).max() <= TOLERANCE)


def run(arguments: Namespace) -> Result:
    """Run the test.

    Raises:
        DataError: a request failed, or an answer mixed two bundles; the report has been shown.
        Unavailable: a command fails, or a service does not start.
    """
    kind = arguments.engine
    with tempfile.TemporaryDirectory(prefix="remotetest-") as place, _engine(kind, Path(place)) as engine:
        document = _Test(arguments, Path(place)).run()
        document["engine_mib"] = engine and rounded(
            sum(_own_bytes(each) for each in (engine, *engine.children(recursive=True))) / MIB
        )
    result: Result = document, lambda console: _show(console, document)
    fault = ""
    if document["failed"] or document["mixed"]:
        fault = f"{document['failed']} requests failed, and {document['mixed']} answers mixed two bundles"
    return result_or_failure(result, arguments, fault)


@contextmanager
def _engine(kind: str, folder: Path) -> Iterator[psutil.Process | None]:
    """The parent of a server for the block; None where the environment names one.

    Raises:
        MissingStage: PostgreSQL with pgvector is not installed.
    """
    variable = uri_variable(kind)
    if os.environ.get(variable):
        yield None
        return
    if kind == PGVECTOR:
        if (programs := postgres.pgvector_programs()) is None:
            raise MissingStage(f"{kind}: PostgreSQL with pgvector is not on the PATH; or set {variable}")
        opened: AbstractContextManager[Any] = postgres.running(programs, "shared_buffers=512MB")
    else:
        milvus.unpack(folder / "program")
        opened = milvus.running(folder / "engine", folder / "program")
    with opened as server:
        os.environ[variable] = server.uri
        try:
            yield psutil.Process(server.process.pid)
        finally:
            del os.environ[variable]


def _own_bytes(process: psutil.Process) -> int:
    """A process's share of the memory that it maps: processes of PostgreSQL have buffers together."""
    return int(process.memory_full_info().pss)


class _Test:
    """One run in a folder."""

    def __init__(self, arguments: Namespace, folder: Path) -> None:
        self._arguments, self._folder, self._config = arguments, folder, write_shop(folder)
        _write(folder / "items.csv", (folder / "items.csv").read_text().splitlines()[1:])
        text = self._config.read_text().replace("[split]", 'display = ["title"]\n\n[split]')
        text += Path(__file__).with_suffix(".toml").read_text()
        self._config.write_text(f'{text}kind = "{arguments.engine}"\n')
        draw, words = random.Random(0), (("brand", BRANDS), ("style", STYLES), ("noun", NOUNS))
        self._texts = [
            " ".join(f"{word}{draw.randrange(most)}" for word, most in words) for _ in range(QUERIES)
        ]

    def run(self) -> dict[str, Any]:
        """Release, serve and swap; returns the report."""
        self._command("train", "fit")
        for each in ("bundle", "register", "promote"):
            self._command("export", each)
        small, _ = self._refreshed(self._arguments.small, seed=1)
        large, build_s = self._refreshed(self._arguments.items, seed=2)
        with self._host("larger", large) as (host, client):
            queries = client.encode(self._texts)
            first = [self._ask(client, n) for n in range(QUERIES)]
            large_bytes = settled(host)
            answers, errors = self._loaded(host, client, small)
        with self._host("smaller", small) as (host, client):
            first_of_small = [self._ask(client, n) for n in range(QUERIES)]
            small_bytes = settled(host)
        scores = [np.array([score for _, score in each.hits], np.float32) for each in first]
        held = {each.version: each for each in (small, large)}
        times = [each.ms for each in answers if each.version == large.version]
        kept = (self._folder / "larger" / "bundles" / large.folder.name).rglob("*")
        found = {
            "rss_ratio": rounded(large_bytes / small_bytes),
            "recall_at_10": float(np.mean([*map(recall, scores, large.index.exact(queries, K).scores)])),
            "p50_ms": rounded(percentile(times, 50)),
            "p99_ms": rounded(percentile(times, 99)),
            "failed": len(errors),
            "mixed": sum(
                each.version not in held or not held[each.version].holds(each.hits, queries[each.query])
                for each in (*first, *answers, *first_of_small)
            ),
            "build_s": rounded(build_s),
            "items": large.count,
            "small_items": small.count,
            "rss_mib": rounded(large_bytes / MIB),
            "small_rss_mib": rounded(small_bytes / MIB),
            "host_files_mib": rounded(sum(each.stat().st_size for each in kept) / MIB),
            "answers": len(answers),
            "answers_after": len(answers) - len(times),
            "clients": self._arguments.clients,
            "engine": self._arguments.engine,
            "errors": Counter(str(each)[:200] for each in errors),
            "machine": machine_text(),
        }
        return {**found, "targets_missed": missed(TARGETS, found)}

    def _refreshed(self, count: int, seed: int) -> tuple[Items, float]:
        """The champion after a refresh with `count` made items, and the seconds of the refresh."""
        draw, table = np.random.default_rng(seed), self._folder / f"items-{count}.csv"
        brand, style = draw.integers(0, BRANDS, count), draw.integers(0, STYLES, count)
        noun = draw.permutation(count) // ITEMS_OF_A_NOUN
        _write(table, [f"i{n},brand{brand[n]} style{style[n]} noun{noun[n]}" for n in range(count)])
        begun = time.perf_counter()
        found = self._command("export", "refresh", "--items", str(table))
        return Items(Path(found["bundle"])), time.perf_counter() - begun

    def _command(self, stage: str, *arguments: str) -> Any:
        """The JSON that a command of a stage writes; it runs on the registry and the cache of this test."""
        arguments += ("--config", str(self._config), "--json")
        command = entry_points.command(f"twinspire.{stage}", *arguments)
        variables = {**os.environ, **alias.variables(self._folder, self._folder / "cache")}
        done = subprocess.run(command, env=variables, cwd=ROOT, stdout=subprocess.PIPE, check=False)
        if done.returncode:
            raise Unavailable(f"{stage} {arguments[0]} has failed; its error is above")
        return json.loads(done.stdout)

    @contextmanager
    def _host(self, name: str, items: Items) -> Iterator[tuple[Service, RetrievalClient]]:
        """A service of one worker that follows the champion, with a cache of its own, and its client."""
        with alias.follow(self._folder, self._folder / name, 1, name=NAME) as host:
            alias.wait_served(host, 1, items.version)
            with RetrievalClient(host.address, retries=False) as client:
                yield host, client

    def _ask(self, client: RetrievalClient, n: int) -> Asked:
        query, started = n % QUERIES, time.perf_counter()
        found = client.search(self._texts[query], k=K)
        return Asked(query, found.bundle_version, hits_of(found), 1000 * (time.perf_counter() - started))

    def _loaded(
        self, host: Service, client: RetrievalClient, other: Items
    ) -> tuple[list[Asked], Sequence[Exception]]:
        """The answers and errors of clients while the host swaps to another bundle."""
        seconds, begun = self._arguments.seconds, time.perf_counter()
        load = Load(lambda n: self._ask(client, n), self._arguments.clients)
        try:
            time.sleep(BEFORE * seconds)
            self._command("export", "rollback", "--reason", "the test swaps")
            alias.wait_served(host, 1, other.version)
            time.sleep(max(seconds - (time.perf_counter() - begun), seconds / 8))
        finally:
            load.stop()
        return load.answers, load.errors


def _write(table: Path, lines: Sequence[str]) -> None:
    """A table of items from ids and titles, with made prices."""
    priced = [f"{line},{n * 7919 % 1000}" for n, line in enumerate(lines)]
    table.write_text("\n".join(["item_id,title,price", *priced, ""]))


def _show(console: Console, found: Report) -> None:
    about = (
        f"{found['items']:,} items in {found['engine']}, against {found['small_items']:,}: a host has "
        f"{number(found['rss_mib'])} MiB of memory, against {number(found['small_rss_mib'])}, and "
        f"{number(found['host_files_mib'])} MiB of files; the engine {number(found['engine_mib'])} MiB",
        f"{found['answers']:,} answers under load, {found['answers_after']:,} of them after the swap; "
        f"{found['clients']} clients; {found['machine']}",
    )
    report.show(console, found, [], TARGETS, about)
