"""Arguments that cannot be used are named."""

from pathlib import Path

import pytest

from twinspire.serving.__main__ import main
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
        (
            ["serve", "--served-log-max-days", "400000"],
            "expected a whole number from 1 to 36500, got '400000'",
        ),
        (["gateway", "--address", ""], "address: expected host:port"),
        (["gateway", "--compare-address", ""], "address: expected host:port"),
        (["status", "--address", "\udcff:1"], "address: expected host:port"),
        (["status", "--tls", "--server-name", "\udcff"], "security.server_name: expected a name"),
    ],
)
def test_an_argument_that_cannot_be_used_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], expected: str
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit) as caught:
        main([each.format(folder=tmp_path) for each in arguments])
    assert caught.value.code == 2
    assert expected in capsys.readouterr().err


def test_a_file_in_a_folder_that_is_missing_is_accepted(tmp_path: Path) -> None:
    assert output_file(f"{tmp_path}/none/none/port") == tmp_path / "none/none/port"


@pytest.mark.parametrize("events", ["sqlite:///{folder}/./items.db", "sqlite+pysqlite:///{folder}/link.db"])
def test_events_and_items_are_not_in_one_file(
    plain: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], events: str
) -> None:
    (tmp_path / "link.db").symlink_to(tmp_path / "items.db")
    stores = ["--catalogue", f"sqlite:///{tmp_path}/items.db", "--events", events.format(folder=tmp_path)]
    with pytest.raises(SystemExit) as caught:
        main(["serve", "--bundle", str(plain), *stores])
    assert caught.value.code == 2
    assert "--events: expected another file than --catalogue" in capsys.readouterr().err


def test_a_store_of_events_beside_the_default_items_is_not_their_file(
    plain: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        main(["serve", "--bundle", str(plain), "--catalogue", "--events", default_url()])
    assert "--events: expected another file than --catalogue" in capsys.readouterr().err


def test_a_service_that_takes_writes_needs_sqlalchemy(
    plain: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(arguments, "find_spec", lambda name: None)
    assert main(["serve", "--bundle", str(plain), "--catalogue"]) == 1
    assert "--catalogue needs sqlalchemy; install it with: pip install .[catal" in capsys.readouterr().err
