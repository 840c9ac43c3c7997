"""Arguments that cannot be used are named."""

from pathlib import Path

import pytest

from tests.serving.cli.test_commands import Capture, failure, misuse
from twinspire.serving.cli import arguments
from twinspire.serving.flag_types import output_file
from twinspire.serving.live.config import default_url


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["serve", "--host", "\udcff"], "--host: expected a name or an address"),
        (["gateway", "--host", "\udcff"], "--host: expected a name or an address"),
        (["serve", "--port-file", "{folder}"], "--port-file: expected a file in a folder, got"),
        (["gateway", "--port-file", "{folder}/file/none/port"], "--port-file: expected a file in a folder,"),
        (["serve", "--served-log-max-days", "400000"], "expected a whole number from 1 to 36500"),
        (["gateway", "--address", ""], "address: expected host:port"),
        (["gateway", "--compare-address", ""], "address: expected host:port"),
        (["status", "--address", "\udcff:1"], "address: expected host:port"),
        (["status", "--tls", "--server-name", "\udcff"], "security.server_name: expected a name"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(
    tmp_path: Path, capsys: Capture, arguments: list[str], expected: str
) -> None:
    (tmp_path / "file").touch()
    assert expected in misuse(capsys, *(each.format(folder=tmp_path) for each in arguments))


def test_a_file_in_a_folder_that_is_missing_is_accepted(tmp_path: Path) -> None:
    assert output_file(f"{tmp_path}/none/none/port") == tmp_path / "none/none/port"


@pytest.mark.parametrize(
    ("items", "events"),
    [
        (["sqlite:///{folder}/items.db"], "sqlite:///{folder}/./items.db"),
        (["sqlite:///{folder}/items.db"], "sqlite+pysqlite:///{folder}/link.db"),
        ([], default_url()),
    ],
    ids=["another path", "a link", "the default"],
)
def test_events_and_items_are_not_in_one_file(
    plain: Path, tmp_path: Path, capsys: Capture, items: list[str], events: str
) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "items.db")
    stores = [each.format(folder=tmp_path) for each in (*items, "--events", events)]
    refused = misuse(capsys, "serve", "--bundle", str(plain), "--catalogue", *stores)
    assert "--events: expected another file than --catalogue" in refused


def test_a_service_that_takes_writes_needs_sqlalchemy(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    refused = failure(capsys, "serve", "--bundle", str(plain), "--catalogue")
    assert "--catalogue needs sqlalchemy; install it with: pip install .[catal" in refused
