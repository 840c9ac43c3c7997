"""What `make setup` shows while pip installs."""

import io

import pytest

from twinspire.protos.system import pip_progress

LINES = (
    "Collecting numpy==2.4.6 (from -r requirements.txt (line 9))\n",
    "  Downloading numpy-2.4.6.whl (16.9 MB)\n",
    "Collecting hnswlib==0.8.0 (from -r requirements.txt (line 8))\n",
    "  Building wheel for hnswlib (pyproject.toml): started\n",
    "Installing collected packages: numpy, hnswlib\n",
)


@pytest.mark.parametrize(
    ("interval", "expected"),
    [
        (
            0.0,
            "collecting numpy==2.4.6: 1 of about 2\ncollecting hnswlib==0.8.0: 2 of about 2\n"
            "building wheel for hnswlib: 2 of about 2\ninstalling all of them\n",
        ),
        (3600.0, "installing all of them\n"),
    ],
)
def test_steps_are_shown_no_more_often_than_the_interval(
    interval: float, expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pip_progress, "INTERVAL_S", interval)
    output = io.StringIO()
    pip_progress.show(LINES, 2, output)
    assert output.getvalue() == expected
