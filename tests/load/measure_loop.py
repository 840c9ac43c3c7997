"""Serve, record, retrain, promote and swap, in rounds, with made viewers; `cli/looptest.py` runs this.

A tracking server, a service that follows the champion, and the commands of the README run as processes.
Viewers (`tests/load/loop/viewers.py`) search and click over gRPC. The first champion learns a few ratings of
each viewer. After each round of visits, `retrain` learns from what was served and clicked, and the service
swaps to what it promotes. Quality is the true nDCG@10 of the service's answers to users that no model knows.
Then challengers that have hardly been trained are put before the gates.
"""

import json
import os
import random
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import polars as pl
from rich.console import Console
from rich.table import Table

from tests.helpers.mlflow_servers import mlflow_server
from tests.load.alias import wait_served
from tests.load.loop.viewers import Viewers, make_viewers
from tests.load.plan import Target
from tests.load.services import ROOT, SERVE, Service, started
from twinspire.protos import entry_points
from twinspire.protos.bundle import read_manifest
from twinspire.protos.errors import Unavailable
from twinspire.serving.client import Event, RetrievalClient
from twinspire.train.evaluation.intervals import Clusters, interval

NAME = "looptest"
WORKERS = 1
REFUSED = "(report: run "  # in the error of a promotion that gates refuse
FLUSH = 1.0  # seconds after which an answer is in the served log
EXPLORED = 0.2  # share of the answers
SENT = 1000  # events of a request
TARGETS = (
    Target("ndcg_ratio", "true nDCG@10 of the last champion, against the first", ">=", 1.15),
    Target("worst_round", "lowest change of true nDCG@10 in a round", ">=", -0.01),
    Target("bad_refused_of_10", "challengers that are worse by design and were refused, of ten", ">=", 10),
)
CONFIG = """\
name = "looptest"

[split]
by = "last"

[query.history]
kind = "history"
max_length = 50

[item.id]
kind = "id"

[item.title]
kind = "text"
column = "title"
max_length = 64

[item.genres]
kind = "category"
column = "genres"
multi = true

[tower]
kind = "sequence"
history = "attention"
dimension = 32
layers = 1
heads = 2
dropout = 0.3
input_dropout = 0.5

[loss]
kind = "full_softmax"

[training]
epochs = {epochs}
patience = 5
batch_size = 800
learning_rate = {rate}
seed = {seed}
selection = "ndcg_at_10"

[data]
{data}
"""
EVENTS = """\
kind = "events"
events = "before.parquet"
items = "items.parquet"
time = "time"
repeats = "first"
display = ["title"]
"""
SERVICE = """\
kind = "service"
before = "before.toml"
log = "served"
window_hours = 0.0003
events = "{url}"
"""


@dataclass(frozen=True)
class Loop:
    """The files and processes of a test.

    Args:
        environment: of the commands.
    """

    folder: Path
    environment: Mapping[str, str]
    viewers: Viewers

    @property
    def url(self) -> str:
        """Of the store of events."""
        return f"sqlite:///{self.folder / 'events.db'}"

    def write(self, name: str, data: str, epochs: int = 20, rate: float = 2e-3, seed: int = 0) -> Path:
        """Write a TOML file of the experiment; its path."""
        path = self.folder / name
        path.write_text(CONFIG.format(data=data, epochs=epochs, rate=rate, seed=seed))
        return path

    def command(self, module: str, *arguments: str, config: Path, may_refuse: bool = False) -> Any:
        """Run a command with `--json`; its document, or None if gates refuse a promotion and may.

        Raises:
            Unavailable: it fails otherwise.
        """
        whole = entry_points.command(module, *arguments, "--config", str(config), "--json")
        done = subprocess.run(
            whole, capture_output=True, text=True, cwd=ROOT, env={**os.environ, **self.environment}
        )
        if done.returncode:
            if may_refuse and REFUSED in done.stderr:
                return None
            raise Unavailable(f"{' '.join(arguments)}: {done.stderr.strip()[-2000:]}")
        return json.loads(done.stdout)

    def bundle(self, config: Path) -> Path:
        """Train and export; the bundle's folder."""
        self.command("twinspire.train", "fit", config=config)
        return Path(self.command("twinspire.export", "bundle", config=config)["bundle"])

    def release(self, config: Path, may_refuse: bool = False) -> bool:
        """Train, export and register a challenger, and promote it; whether it became the champion."""
        self.bundle(config)
        self.command("twinspire.export", "register", config=config)
        return self.command("twinspire.export", "promote", config=config, may_refuse=may_refuse) is not None

    @contextmanager
    def service(self, *flags: str) -> Iterator[Service]:
        flags += ("--model", f"models:/{NAME}@champion", "--poll", "0.5", "--workers", str(WORKERS))
        with started("serve", *SERVE, *flags, environment=self.environment) as server:
            yield server


@contextmanager
def prepared(cache: Path, seed: int) -> Iterator[Loop]:
    """Viewers, a tracking server, and the first champion in its registry."""
    with tempfile.TemporaryDirectory(prefix="looptest-") as place:
        folder = Path(place)
        viewers = make_viewers(folder, cache, seed)
        server = folder / "server"
        server.mkdir()
        with mlflow_server(server, f"sqlite:///{server / 'mlflow.db'}") as url:
            variables = {"MLFLOW_TRACKING_URI": url, "MLFLOW_REGISTRY_URI": url}
            yield Loop(folder, {**variables, "TWINSPIRE_CACHE": str(folder / "cache")}, viewers)


def rounds(loop: Loop, count: int, visits: int, seed: int, console: Console) -> dict[str, Any]:
    """The first champion, and some rounds of visits and retraining.

    Judges search another service, which explores nothing and keeps no log, so no model learns from them.
    """
    before = loop.write("before.toml", EVENTS, seed=seed)
    loop.release(before)
    config = loop.write("loop.toml", SERVICE.format(url=loop.url), seed=seed)
    chance = random.Random(seed)
    logged = ("--events", loop.url, "--explore-share", str(EXPLORED), "--served-log-share", "1")
    log = ("--served-log", str(loop.folder / "served"), "--served-log-flush-seconds", str(FLUSH))
    users = sorted(loop.viewers.liked)
    steps: list[dict[str, Any]] = []
    with (
        loop.service(*logged, *log) as service,
        RetrievalClient(service.address, timeout=60.0) as client,
        loop.service() as judged,
        RetrievalClient(judged.address, timeout=60.0) as judges,
    ):
        known = pl.read_parquet(loop.folder / "before.parquet").iter_rows()
        record(client, [Event(user, item, time=moment) for user, item, moment in known])
        quality = first = loop.viewers.quality(judges)
        console.print(f"first champion: nDCG@10 {first.mean():.4f}")
        for number in range(1, count + 1):
            events: list[Event] = []
            for user in chance.sample(users * visits, len(users) * visits):  # in any order
                found = loop.viewers.visit(client, user, chance)
                record(client, found)
                events += found
            time.sleep(2 * FLUSH)  # the answers are in the served log
            started_at = time.monotonic()
            result = loop.command("twinspire.export", "retrain", config=config)
            seconds = time.monotonic() - started_at
            promoted = not result["refused"]
            if promoted:
                version = read_manifest(Path(result["bundle"])).bundle_version
                for each in (service, judged):
                    wait_served(each, WORKERS, version)
            new = loop.viewers.quality(judges)
            change = interval(new, Clusters.single(len(new), "judges"), quality)
            steps.append(
                {
                    "round": number,
                    "clicks": sum(bool(each.request_id) for each in events),
                    "elsewhere": sum(not each.request_id for each in events),
                    "promoted": promoted,
                    "towers": [tower["kind"] for tower in result["candidates"]],
                    "refused": result["refused"],
                    "version": result["version"],
                    "ndcg": float(new.mean()),
                    **change.named("change"),
                    "retrain_seconds": round(seconds, 1),
                }
            )
            console.print(json.dumps(steps[-1]), soft_wrap=True, markup=False, highlight=False)
            quality = new
    return {
        "ndcg_first": float(first.mean()),
        "ndcg_last": float(quality.mean()),
        "ndcg_ratio": float(quality.mean() / first.mean()),
        "worst_round": min(each["change"] for each in steps),
        "rounds": steps,
    }


def refused(loop: Loop, count: int, console: Console) -> int:
    """How many challengers that have hardly been trained are refused by the gates."""
    done = 0
    for seed in range(1, count + 1):
        data = SERVICE.format(url=loop.url)
        config = loop.write("bad.toml", data, epochs=1, rate=1e-6, seed=seed)
        if loop.release(config, may_refuse=True):
            loop.command(
                "twinspire.export", "rollback", config=config
            )  # the next one meets the same champion
        else:
            done += 1
        console.print(f"challengers worse by design: {done} of {seed} refused")
    return done


def record(client: RetrievalClient, events: Sequence[Event]) -> None:
    """Record events, in as many requests as they need."""
    for start in range(0, len(events), SENT):
        client.record(events[start : start + SENT])


def show(console: Console, report: Mapping[str, Any]) -> None:
    table = Table("round", "clicks", "towers", "nDCG@10", "change", "seconds", "")
    for each in report["rounds"]:
        change = f"{each['change']:+.4f} ({each['change_low']:+.4f} to {each['change_high']:+.4f})"
        outcome = "promoted" if each["promoted"] else "refused"
        towers = ", ".join(each["towers"])
        figures = f"{each['ndcg']:.4f}", change, f"{each['retrain_seconds']:.0f}", outcome
        table.add_row(str(each["round"]), f"{each['clicks']:,}", towers, *figures)
    console.print(table)
