"""Options of a sink become flags of `serve`."""

from argparse import ArgumentParser
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from serving.cli import arguments
from serving.observability.sinks import RequestSink, SinkOptions


@dataclass(frozen=True)
class FileOptions(SinkOptions):
    """One field of each type."""

    to_file: Path | None = field(default=None, metadata={"help": "where to"})
    share: float = field(default=0.5, metadata={"help": "how much", "most": 1.0})
    with_texts: bool = field(default=False, metadata={"help": "texts too"})

    def check(self) -> None:
        """Nothing to check."""

    def open(self, worker: int) -> RequestSink | None:
        """No sink."""
        return None


def test_each_field_of_a_sink_is_a_flag(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arguments, "SINKS", (FileOptions,))
    parser = ArgumentParser()
    arguments.add_serve(parser)

    def sinks(*flags: str) -> tuple[SinkOptions, ...]:
        return arguments.service_config(parser.parse_args(["--bundle", str(plain), *flags])).sinks

    assert sinks() == (FileOptions(),)
    given = sinks("--to-file", "clicks.jsonl", "--share", "0.25", "--with-texts")
    assert given == (FileOptions(Path("clicks.jsonl"), 0.25, True),)
