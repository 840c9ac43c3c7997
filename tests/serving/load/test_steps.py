"""What the test commands check before they measure."""

from pathlib import Path
from typing import Any

import pytest

from tests.helpers.tiny import tiny_bundle
from tests.load.cli import filtertest, loadtest, swaptest
from tests.serving.cli.test_commands import Capture
from tests.serving.load.commands import failure


@pytest.mark.parametrize("command", ["loadtest", "swaptest", "filtertest"])
def test_a_plot_that_cannot_be_written_is_told_before_anything_is_measured(
    command: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(*given: Any, **named: Any) -> None:
        pytest.fail("it has been measured")

    for module, name in ((loadtest, "run_rounds"), (swaptest, "_measure"), (filtertest, "measure")):
        monkeypatch.setattr(module, name, measure)
    first, second = tiny_bundle(tmp_path, 30), tiny_bundle(tmp_path, 20)
    (tmp_path / "file").touch()
    flags = ["--bundle", str(first), "--plot", str(tmp_path / "file" / "x.png")]
    told = failure(capsys, command, *flags, *(["--other", str(second)] if command == "swaptest" else []))
    assert "file: the plot cannot be written there: " in told
