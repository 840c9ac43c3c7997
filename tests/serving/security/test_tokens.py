"""The token file: what is wrong in it, when it is read again, and the tokens that are made for it."""

import logging
from pathlib import Path

import pytest

from tests.helpers.serving.guarded import SERVICE
from tests.helpers.serving.token_files import Tokens
from twinspire.protos.errors import ConfigError, InvalidInput
from twinspire.serving.security.auth import Access
from twinspire.serving.security.tokens import TokenFile, new_token
from twinspire.serving.shared_state import ACCESS, SharedState

ENTRY = '[[token]]\nname = "a"\nrole = "reader"\nsha256 = "' + "0" * 64 + '"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "token: required, but missing"),
        ("[[token", "not valid TOML"),
        ("token = " + "[" * 200_000, "not valid TOML: arrays and objects are nested more than"),
        (ENTRY.replace("reader", "root"), r"token\[0\].role: expected one of 'reader', 'recorder'"),
        (ENTRY.replace("0" * 64, "secret"), r"token\[0\].sha256: expected 64 hexadecimal digits"),
        (ENTRY.replace('"a"', '"a b"'), r"token\[0\].name: expected 1 to 64 of"),
        (ENTRY + "expires = 1", r"token\[0\].expires: expected a date such as"),
        (ENTRY + "expires = 2027-01-01T00:00:00", r"token\[0\].expires: expected an offset"),
        (ENTRY + "expired = 2027-01-01", r"token\[0\].expired: unknown key"),
        (ENTRY + ENTRY, r"token\[1\].name: the same as that of token\[0\]"),
        (ENTRY + ENTRY.replace('"a"', '"b"'), r"token\[1\].sha256: the same as that of token\[0\]"),
        (ENTRY + '[methods]\n"a/B" = "reader"', r"methods.a/B: unknown method; known: grpc"),
        (ENTRY + f'[methods]\n"{SERVICE}/Info" = "me"', r"methods\..*/Info: expected one of 'anyone'"),
    ],
)
def test_a_wrong_file_is_an_error_that_names_the_key(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "tokens.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=f"tokens.toml: {message}") as error:
        TokenFile(path)
    assert "secret" not in str(error.value)


def test_a_file_that_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="there is no such file"):
        TokenFile(tmp_path / "tokens.toml")
    with pytest.raises(ConfigError, match="cannot be read"):
        TokenFile(tmp_path)


def test_the_supervisor_logs_reads_and_errors(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    tokens = Tokens(tmp_path / "tokens.toml")
    access = Access(tokens=TokenFile(tokens.path, period=0))
    tokens.path.write_text("token = []")
    state = SharedState((ACCESS,))
    access.publish(state)
    assert caplog.messages == [f"{tokens.path}: read again"]
    caplog.clear()
    assert state.read(ACCESS) == {"stale": {"tokens": False}}
    tokens.path.unlink()
    for _ in range(2):
        access.publish(state)
    assert state.read(ACCESS) == {"stale": {"tokens": True}}
    (text,) = caplog.messages
    assert "tokens.toml: there is no such file" in text


def test_a_new_token_is_not_in_its_entry() -> None:
    made = [new_token("search-frontend", "reader") for _ in range(2)]
    assert made[0] != made[1]
    for token, entry in made:
        assert len(token) == 43
        assert token not in entry
    with pytest.raises(InvalidInput, match="role: expected one of"):
        new_token("a", "root")
    with pytest.raises(InvalidInput, match="name: expected 1 to 64"):
        new_token('a"\nrole = "admin', "reader")


def test_a_change_is_seen_after_the_period_and_not_before(tmp_path: Path) -> None:
    tokens = Tokens(tmp_path / "tokens.toml")
    patient = TokenFile(tokens.path, period=3600)
    tokens.path.unlink()
    assert patient.identify(tokens.plain["reader"]).name == "reader"
