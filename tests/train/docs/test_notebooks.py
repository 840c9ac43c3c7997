"""The notebooks are stored without outputs, and run."""

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.small_environment import make_environment
from twinspire import train
from twinspire.train.paths import ROOT

NOTEBOOKS = sorted((ROOT / "train" / "docs" / "notebooks").glob("*.ipynb"))
# Sizes in the cells -> smaller ones, with which a notebook says less and runs sooner.
SMALLER = {"ITEMS = 4000": "ITEMS = 800", "EPOCHS = 10": "EPOCHS = 2", "EPOCHS = 5": "EPOCHS = 2"}


def cells(path: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(path.read_text())["cells"]
    return found


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_is_stored_without_outputs_and_names_no_path_of_a_machine(path: Path) -> None:
    document = json.loads(path.read_text())
    assert (document["nbformat"], document["nbformat_minor"]) == (4, 5)
    assert 10 <= len(document["cells"]) <= 15
    assert len({cell["id"] for cell in document["cells"]}) == len(document["cells"])
    for cell in document["cells"]:
        assert cell["cell_type"] in ("markdown", "code")
        if cell["cell_type"] == "code":
            assert (cell["outputs"], cell["execution_count"]) == ([], None)
            compile("".join(cell["source"]), path.name, "exec")
    assert re.findall(r"(?<![\w.:/])/(?:home|root|tmp|work|Users|mnt|opt|var)\b", path.read_text()) == []


@pytest.mark.exhaustive
@pytest.mark.timeout(600)
@pytest.mark.filterwarnings("ignore::DeprecationWarning:jupyter_client")
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(
    path: Path, empty_store: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a kernel whose Python has few packages, since one notebook reads the docstrings of all of them."""
    nbformat, nbclient = pytest.importorskip("nbformat"), pytest.importorskip("nbclient")
    pytest.importorskip("ipykernel")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.setenv("TWINSPIRE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(Path(train.__file__).parents[2]))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    make_environment(tmp_path / "environment")
    command = [str(tmp_path / "environment" / "bin" / "python"), "-m", "ipykernel_launcher"]
    kernel = tmp_path / "kernels" / "few-packages" / "kernel.json"
    kernel.parent.mkdir(parents=True)
    kernel.write_text(
        json.dumps({"argv": [*command, "-f", "{connection_file}"], "display_name": "", "language": "python"})
    )
    text = path.read_text()
    for whole, less in SMALLER.items():
        text = text.replace(whole, less)
    assert text != path.read_text()
    notebook = nbformat.reads(text, as_version=4)
    nbclient.NotebookClient(
        notebook, timeout=600, kernel_name="few-packages", resources={"metadata": {"path": str(tmp_path)}}
    ).execute()
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)  # the plot
    assert any("stdout" in output.get("name", "") for output in outputs)  # the answers
