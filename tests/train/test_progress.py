"""Progress of the commands, on a terminal and in a file."""

import io

import pytest
from rich.console import Console

from twinspire.train import progress


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        (0.0, ["encoding 10 of 30", "encoding 20 of 30", "encoding 30 of 30"]),  # between two lines
        (3600.0, []),
    ],
)
def test_a_file_has_a_line_where_some_time_has_passed(
    seconds: float, expected: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "LINE_SECONDS", seconds)
    output = io.StringIO()
    with progress.progress_bar(Console(file=output, width=100)) as bar:
        task = bar.add_task("encoding", total=30, note="")
        for _ in range(3):
            bar.advance(task, 10)
    lines = output.getvalue().splitlines()
    assert [line.partition(",")[0] for line in lines] == expected


def test_a_terminal_has_a_bar() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, force_interactive=True)
    assert not isinstance(progress.progress_bar(console), progress.ProgressLines)


def test_messages_are_plain_texts(capsys: pytest.CaptureFixture[str]) -> None:
    progress.PROGRESS.print("[/x].npy: not a journal; starting over")
    assert capsys.readouterr().err == "[/x].npy: not a journal; starting over\n"
