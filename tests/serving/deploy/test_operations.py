"""What OPERATIONS.md says: backup and restore are tried, and what it names exists."""

import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest

import twinspire.export.__main__ as export_commands
import twinspire.train.__main__ as train_commands
from tests.helpers.serving import systemd
from tests.helpers.serving.faulty import RegistryServer, Service, Versions
from tests.helpers.tiny import item_names, tiny_bundle
from tests.serving.conftest import ROOT
from tests.serving.deploy.test_compose import compose
from tests.serving.deploy.test_runbook import flags_in, known_flags
from twinspire.protos.system import logs
from twinspire.serving.client import Item
from twinspire.serving.client.items import Origin

PAGE = (ROOT / "serving" / "OPERATIONS.md").read_text()
STEPS = ["export retrain"]
QUERIES = [*item_names(20), "zozozo zozozo"]


def commands(heading: str) -> list[str]:
    """The lines of the first shell block below a heading."""
    found = re.search(r"```sh\n(.*?)```", PAGE.partition(f"## {heading}\n")[2], re.DOTALL)
    assert found is not None
    return found[1].splitlines()


class Site:
    """A registry with its artefacts, and a store of live items."""

    def __init__(self, folder: Path, empty_store: Path) -> None:
        self.folder, self.mlflow, self.live = folder, folder / "mlflow", folder / "live"
        for each in (self.mlflow, self.live):
            each.mkdir(parents=True)
        self.registry = RegistryServer(self.mlflow, empty_store)
        self.registry.artefacts = self.mlflow / "artifacts"

    def run(self, lines: list[str], copies: Path) -> None:
        """Run commands of the page, with the folders of this site in place of its own."""
        for line in lines:
            if line.startswith("chown"):  # there is no such user here
                continue
            line = line.replace("/opt/twinspire/bin/python", sys.executable)
            line = line.replace("/var/lib/mlflow", str(self.mlflow))
            line = line.replace("/var/lib/twinspire/live", str(self.live))
            line = line.replace("/var/backups/twinspire", str(copies))
            subprocess.run(shlex.split(line), cwd=ROOT, check=True, capture_output=True)

    @contextmanager
    def service(self) -> Iterator[Service]:
        """A new service that follows the registry's champion, and knows the store."""
        running = Service(self.registry.uri, self.folder, "--catalogue", f"sqlite:///{self.live}/items.db")
        try:
            yield running
        finally:
            running.stop()


def answers(service: Service) -> Any:
    """Bundle, hits of some queries, and where some items come from."""
    client = service.client
    sequence = service.state()["catalogue"]["sequence"]
    found = [
        [(hit.id, dict(hit.fields)) for hit in client.search(text, k=5, min_sequence=sequence).hits]
        for text in QUERIES
    ]
    states = client.get(["live-1", "live-2", "item-003", "item-004"])
    return client.info().bundle_version, found, [(each.item.id, each.origin) for each in states]


@pytest.mark.exhaustive
@pytest.mark.filterwarnings("ignore")  # of MLflow
def test_what_was_copied_is_restored_elsewhere_with_the_same_answers(
    tmp_path: Path, empty_store: Path
) -> None:
    copies = tmp_path / "copies"
    with ExitStack() as stack:
        before = Site(tmp_path / "before", empty_store)
        stack.callback(before.registry.close)
        before.registry.start()
        versions = Versions(before.registry.uri, before.registry.artefacts)
        stack.callback(versions.close)
        for items in (200, 300):
            versions.add_bundle(tiny_bundle(tmp_path / "made", items))
        versions.point("2")
        with before.service() as service:
            written = [Item(f"live-{n}", {"text": each}, {"name": each}) for n, each in enumerate(QUERIES)]
            service.client.upsert(written)
            service.client.delete(["item-003", "live-2"])
            expected = answers(service)
            before.run(commands("Backup"), copies)
            service.client.upsert([Item("late", {"text": QUERIES[0]}, {"name": "late"})])
        before.registry.stop()
        shutil.rmtree(before.folder)

        after = Site(tmp_path / "after", empty_store)
        stack.callback(after.registry.close)
        after.run(commands("Restore"), copies)
        after.registry.start()
        with after.service() as service:
            assert answers(service) == expected
            assert service.served() == "2"
            (late,) = service.client.get(["late"])
            assert late.origin is Origin.UNKNOWN
            service.client.upsert([Item("new", {"text": "zozozo"}, {"name": "new"})])


def test_retraining_takes_the_same_steps_everywhere() -> None:
    unit = (systemd.UNITS / "twinspire-retrain.service").read_text()
    lines = re.findall(r"^ExecStart=/opt/twinspire/bin/python -m twinspire\.(.*)$", unit, re.MULTILINE)
    container = compose()["retrain"]["command"][0].replace("python -m twinspire.", "").splitlines()
    steps = [line.replace("${TWINSPIRE_CONFIG}", "/data/experiment.toml") for line in lines]
    assert [line.removesuffix(" $TWINSPIRE_RETRAIN") for line in steps] == container
    example = (systemd.UNITS / "retrain.env").read_text().rpartition("#TWINSPIRE_RETRAIN=")[2].split()
    given = export_commands.parser().parse_args([*container[0].split()[1:], *example])
    assert given.catalogue == "sqlite:////var/lib/twinspire/live/items.db"
    assert [" ".join(line.split()[:2]) for line in container] == STEPS
    for line in container:
        stage, *arguments = line.split()
        parser = train_commands.parser() if stage == "train" else export_commands.parser()
        assert str(parser.parse_args(arguments).config) == "/data/experiment.toml"


def test_every_container_has_limits() -> None:
    for name, service in compose().items():
        assert {"cpus", "mem_limit", "pids_limit"} <= {*service}, name


def test_the_page_names_what_exists() -> None:
    for unit in re.findall(r"twinspire[\w-]*\.(?:service|timer)", PAGE):
        assert (systemd.UNITS / unit).is_file(), unit
    assert flags_in(PAGE) - known_flags() == {"--serve-artifacts"}  # of MLflow's server
    assert "TWINSPIRE_LOG_FORMAT=json" in PAGE
    assert (logs.FORMAT, logs.JSON) == ("TWINSPIRE_LOG_FORMAT", "json")
