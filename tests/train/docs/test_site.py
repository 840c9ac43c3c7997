"""The site of `make docs` builds without a warning, and holds what it is to hold."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from twinspire.train.paths import ROOT

REPOSITORY = "https://git.example.org/twinspire"


def build(folder: Path, repository: str) -> Path:
    """The site, built strictly."""
    command = [
        "mkdocs",
        "build",
        "--strict",
        "--config-file",
        "train/docs/mkdocs.yml",
        "--site-dir",
        str(folder),
    ]
    own = {"NO_MKDOCS_2_WARNING": "1", "REPOSITORY": repository}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=ROOT, env={**os.environ, **own}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.exhaustive
def test_the_site_builds_without_a_warning(tmp_path: Path) -> None:
    for needed in ("mkdocs", "material", "mkdocstrings_handlers.python"):
        pytest.importorskip(needed)
    site = build(tmp_path / "site", REPOSITORY)
    front = (site / "index.html").read_text()
    for page in ("train", "export/RESULTS", "serving/RUNBOOK", "train/docs/tutorial", "CHANGELOG"):
        assert f'href="{page}/"' in front
        assert (site / page / "index.html").is_file()
    assert (site / "serving" / "gateway" / "playground.png").is_file()
    # A link to a source leads to the repository.
    assert f'<a href="{REPOSITORY}/blob/HEAD/train/data/sources/files.py">files.py</a>' in front
    # Reference and notebooks are made.
    docs = site / "train" / "docs"
    assert "RetrievalClient.search" in (docs / "reference" / "clients" / "index.html").read_text()
    experiment = (docs / "reference" / "experiment" / "index.html").read_text()
    for key in ("newcomers_strength", "unknown_items", "recall_target", "average_epochs", "min_history"):
        assert key in experiment
    assert "Retriever" in (docs / "notebooks" / "text" / "index.html").read_text()
    assert (site / "text.ipynb").is_file()
    # A browser that shows the site loads nothing from another host.
    asked = re.findall(r'<(?:script|link rel="stylesheet")[^>]*(?:src|href)="(https?:[^"]*)', front)
    assert asked == []
