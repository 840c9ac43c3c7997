"""A registry on a server of its own, a service that follows it, and somebody who asks all the time."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import psutil
from prometheus_client.parser import text_string_to_metric_families

from tests.helpers.mlflow_servers import server_of
from tests.helpers.ports import held_port
from tests.helpers.tiny import tiny_bundle
from tests.helpers.waiting import wait_until
from tests.serving.conftest import ROOT
from twinspire.protos import bundle
from twinspire.serving.client import RetrievalClient

NAME = "faults"
ALIAS = "champion"
QUERY = "bavuti xelike"


class RegistryServer:
    """An MLflow server with proxied artefacts, which can be stopped and started again on its port.

    Args:
        folder: for its files.
        empty_store: an MLflow database in which nothing is tracked yet, to copy.
    """

    def __init__(self, folder: Path, empty_store: Path) -> None:
        self.folder = folder
        self.database = Path(shutil.copy(empty_store, folder / "mlflow.db"))
        self.artefacts = folder / "artefacts"
        self._held = ExitStack()
        self.port = self._held.enter_context(held_port())
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command, variables = server_of(f"sqlite:///{self.database}", self.artefacts)
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "--host", "127.0.0.1", "--port", str(self.port)],
                env={**os.environ, **variables},
                stdout=log,
                stderr=log,
                start_new_session=True,
                cwd=self.folder,
            )
        wait_until(self._answers, 90, lambda: (self.folder / "server.log").read_text()[-2000:])

    def stop(self) -> None:
        """Kill it and what it has started."""
        self.signal(signal.SIGKILL)
        if self.process:
            self.process.wait()

    def close(self) -> None:
        """Kill it, and give its port back."""
        self.stop()
        self._held.close()

    def signal(self, number: signal.Signals) -> None:
        """Send all of its processes a signal."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, number)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.uri}/health", timeout=2) as response:
                return bool(response.status == 200)
        except OSError:
            return False


class Versions:
    """Versions of the model in the registry.

    Args:
        uri: of the registry.
        artefacts: where it keeps files.
        direct: the client writes them there, and no server does it.
    """

    def __init__(self, uri: str, artefacts: Path, direct: bool = False) -> None:
        import mlflow

        mlflow.set_tracking_uri(uri)
        self.client = mlflow.MlflowClient()
        self._artefacts = artefacts
        self.client.create_registered_model(NAME)
        self.experiment = self.client.create_experiment(NAME, artefacts.as_uri() if direct else None)

    def close(self) -> None:
        """Let MLflow in this process point nowhere again."""
        import mlflow

        mlflow.set_tracking_uri(None)  # type: ignore[arg-type]

    def add(self, folder: Path | None, tag: str = "") -> str:
        """Register a bundle, or a folder that is none; gives the number of its version."""
        run = self.client.create_run(self.experiment)
        if folder:
            self.client.log_artifacts(run.info.run_id, str(folder), "bundle")
        source = f"{run.info.artifact_uri}/bundle"
        tags = {"bundle_version": tag} if tag else {}
        made = self.client.create_model_version(NAME, source, run.info.run_id, tags=tags)
        return str(made.version)

    def add_bundle(self, folder: Path) -> str:
        """Register a bundle with the tag that says which it is."""
        return self.add(folder, json.loads((folder / bundle.MANIFEST).read_bytes())["bundle_version"])

    def point(self, version: str, alias: str = ALIAS) -> None:
        self.client.set_registered_model_alias(NAME, alias, version)

    def files(self, version: str) -> Path:
        """Where the server keeps the files of a version."""
        run_id = self.client.get_model_version(NAME, version).run_id
        (found,) = self._artefacts.rglob(f"{run_id}/artifacts/bundle")
        return found


class Service:
    """`python -m twinspire.serving serve` that follows the alias."""

    def __init__(self, registry: str, folder: Path, *flags: str) -> None:
        self.cache = folder / "cache" / "bundles"
        self.log_path = folder / "service.log"
        port_file = folder / "port"
        environment = {
            **os.environ,
            "MLFLOW_TRACKING_URI": registry,
            "MLFLOW_HTTP_REQUEST_TIMEOUT": "2",
            "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
            "TWINSPIRE_CACHE": str(folder / "cache"),
        }
        command = [
            sys.executable,
            "-m",
            "twinspire.serving",
            "serve",
            "--model",
            f"models:/{NAME}@{ALIAS}",
            "--json",
        ]
        command += ["--port", "0", "--port-file", str(port_file), "--metrics-port", "0", "--workers", "2"]
        with self.log_path.open("wb") as log:
            self.process = subprocess.Popen(
                [*command, "--poll", "0.2", *flags],
                stdout=subprocess.PIPE,
                stderr=log,
                cwd=ROOT,
                env=environment,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log()
        self.told: dict[str, Any] = json.loads(line)
        self.client = RetrievalClient(self.told["address"], timeout=10)

    def stop(self) -> None:
        self.client.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)
        assert self.process.stdout is not None
        self.process.stdout.close()

    def state(self) -> dict[str, Any]:
        """The service's own state, as `Info` tells it."""
        return self.client.info().state

    def following(self) -> dict[str, Any]:
        return dict(self.state()["following"])

    def served(self) -> str:
        """The registry's version of the champion."""
        return str(self.state()["bundles"][0]["model_version"])

    def metric(self, name: str, **labels: str) -> float:
        """One figure of a scrape: the first of that name that has these labels."""
        url = f"http://127.0.0.1:{self.told['metrics_port']}/metrics"
        with urllib.request.urlopen(url, timeout=10) as response:
            families = list(text_string_to_metric_families(response.read().decode()))
        samples = [each for family in families for each in family.samples if each.name == name]
        return next(each.value for each in samples if labels.items() <= each.labels.items())

    def log(self, start: int = 0) -> str:
        return self.log_path.read_bytes()[start:].decode()

    def processes(self, *words: str) -> list[psutil.Process]:
        """Its own processes, or those whose command line holds all of some words."""
        own = psutil.Process(self.process.pid).children(recursive=True)
        found = []
        for each in own:
            try:
                line = " ".join(each.cmdline())
            except psutil.Error:
                continue
            if all(word in line for word in words):
                found.append(each)
        return found

    def follower(self) -> psutil.Process:
        return psutil.Process(self.processes("twinspire.serving.rollout.registry")[0].ppid())


class Asker(threading.Thread):
    """Asks the service all the time, and keeps what it was answered."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True)
        self._address = address
        self._stopped = threading.Event()
        self.answers: list[tuple[str, tuple[str, ...]]] = []  # bundle version and ids
        self.errors: list[str] = []

    def run(self) -> None:
        client = RetrievalClient(self._address, timeout=10, retries=False)
        while not self._stopped.is_set():
            try:
                answer = client.search(QUERY, k=5)
                self.answers.append((answer.bundle_version, tuple(hit.id for hit in answer.hits)))
            except Exception as error:
                self.errors.append(f"{type(error).__name__}: {error}")
                client.close()
                client = RetrievalClient(self._address, timeout=10, retries=False)
            time.sleep(0.02)  # other tests need the processor, too
        client.close()

    def stop(self) -> None:
        self._stopped.set()
        self.join(30)


class TwoBundles:
    """A registry with two bundles, and a service that follows two aliases, one of them as canary and shadow.

    Args:
        folder: an empty one, for all files.
        empty_store: an MLflow database in which nothing is tracked yet, to copy.
        flags: of the service, besides.
    """

    def __init__(self, folder: Path, empty_store: Path, *flags: str) -> None:
        uri = f"sqlite:///{shutil.copy(empty_store, folder / 'mlflow.db')}"
        self.versions = Versions(uri, folder / "artefacts", direct=True)
        self.bundles = [tiny_bundle(folder / "made", items) for items in (300, 200)]
        for made in self.bundles:
            self.versions.add_bundle(made)
        self.versions.point("1")
        challenger = f"models:/{NAME}@challenger"
        both = (
            "--canary",
            challenger,
            "--canary-share",
            "0.5",
            "--shadow",
            challenger,
            "--shadow-share",
            "1",
        )
        self.service = Service(uri, folder, *both, *flags)

    def close(self) -> None:
        """Stop the service if it runs, and close the registry."""
        if self.service.process.poll() is None:
            self.service.stop()
        self.versions.close()
