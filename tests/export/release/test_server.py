"""The whole way against a tracking server over HTTP, as it is in a team."""

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest

from tests.helpers.mlflow_servers import _serving
from tests.helpers.stdlib import FEW, PLAIN, QUICK, tracking_at, write_toml
from twinspire.export.__main__ import main as export
from twinspire.protos import bundle
from twinspire.serving import bundles
from twinspire.train.__main__ import main as train

pytestmark = pytest.mark.exhaustive

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def server(empty_store: Path, tmp_path: Path) -> Iterator[str]:
    """The address of a server that the command `mlflow server` starts."""
    (tmp_path / "mlflow.db").write_bytes(empty_store.read_bytes())
    command = [sys.executable, "-m", "mlflow", "server", "--workers", "1"]
    command += ["--backend-store-uri", f"sqlite:///{tmp_path}/mlflow.db"]
    command += ["--artifacts-destination", str(tmp_path / "artifacts")]
    with _serving(tmp_path, command, "/health", MLFLOW_TRACKING_URI="") as address:
        yield address


def test_everything_works_over_http(
    server: str, stdlib: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    changed: Any = {"training": {"epochs": 1}, "tower": {"buckets": 2048, "item_hidden": 0}, "data": FEW}
    config = str(write_toml(stdlib, tmp_path / "a.toml", "over-http", {**PLAIN, **QUICK}, **changed))

    def document(main: Any, *arguments: str) -> Any:
        monkeypatch.setattr(sys, "argv", ["python -m", *arguments, "--config", config, "--json"])
        assert main() == 0
        return json.loads(capsys.readouterr().out)

    with tracking_at(server):
        fitted = document(train, "fit")
        assert (fitted["tracking_uri"], fitted["reused"]) == (server, False)
        assert document(train, "fit")["reused"]
        made = document(export, "bundle")
        registered = document(export, "register")
        assert registered["model"] == "models:/over-http/1"
        assert document(export, "register")["reused"]
        assert document(export, "promote")["move"]["after"] == "1"
        with warnings.catch_warnings(record=True):  # MLflow lifts every filter
            model = mlflow.pyfunc.load_model("models:/over-http@champion")
        (hits,) = model.predict(["split a string into words"], params={"k": 3})
        assert len(hits) == 3
        folder = bundles.download("models:/over-http@champion", tmp_path / "served")
        assert bundle.read(folder).bundle_version == made["bundle_version"]
    assert not (tmp_path / "artifacts" / "mlruns").exists()
    assert list((tmp_path / "artifacts").rglob("towers.pt"))
