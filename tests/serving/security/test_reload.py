"""Files of tokens and certificates that are replaced, broken or deleted while the service runs."""

import json
import os
import shutil
import signal
import subprocess
from pathlib import Path

import psutil
import pytest

from tests.helpers.serving.certificates import Authority
from tests.helpers.serving.operated import log_until, scrape, workers
from tests.helpers.waiting import wait_until
from tests.serving.conftest import Start
from twinspire.protos.errors import NotAuthenticated, Unavailable
from twinspire.serving.client import RetrievalClient
from twinspire.serving.client.security import Security
from twinspire.serving.security.tokens import TokenFile, new_token

Process = subprocess.Popen[str]


class Guarded:
    """Files of a service with TLS and two tokens, and what its clients need."""

    def __init__(self, folder: Path) -> None:
        self.authority = Authority()
        self.folder, self.tokens = folder, folder / "tokens.toml"
        self.certificate, self.key = self.authority.server().write(folder)
        self.ca = folder / "ca.pem"
        self.ca.write_bytes(self.authority.certificate)
        made = [new_token(name, "reader") for name in ("first", "second")]
        self.plain, self.entries = zip(*made, strict=True)
        self.tokens.write_text("\n".join(self.entries))

    @property
    def flags(self) -> tuple[str, ...]:
        pair = ("--tls-certificate", str(self.certificate), "--tls-key", str(self.key))
        return ("--tokens", str(self.tokens), *pair)

    def security(self, token: int = 1) -> Security:
        return Security(ca=self.ca, token=self.plain[token])

    def admits(self, address: str, token: int) -> bool:
        """Whether a new connection with this token gets an answer; it may be refused for the token alone."""
        with RetrievalClient(address, security=self.security(token)) as client:
            try:
                return len(client.search("bavuti xelike", k=3).hits) == 3
            except NotAuthenticated:
                return False

    def has_revoked_first(self, address: str) -> bool:
        """Whether all of many new connections, to all workers, refuse the first token and take the second."""
        try:
            return all(not self.admits(address, 0) and self.admits(address, 1) for _ in range(8))
        except Unavailable:  # the certificate is not the new one yet
            return False


@pytest.fixture
def guarded(tmp_path: Path) -> Guarded:
    return Guarded(tmp_path)


def stop(process: Process) -> str:
    """Stop it; gives the rest of its log."""
    process.send_signal(signal.SIGTERM)
    _, log = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "Traceback" not in log
    return log


def test_changed_tokens_and_certificates_are_read_and_a_hangup_ends_no_process(
    start_server: Start, guarded: Guarded
) -> None:
    process, address = start_server("--workers", "2", *guarded.flags)
    before = {child.pid for child in psutil.Process(process.pid).children()}
    assert guarded.admits(address, 0)
    successor = Authority("successor")
    successor.server(last_day=3).write(guarded.folder)
    guarded.ca.write_bytes(successor.certificate)
    guarded.tokens.write_text(guarded.entries[1])
    for pid in (*before, process.pid):
        os.kill(pid, signal.SIGHUP)
    wait_until(lambda: guarded.has_revoked_first(address))
    guarded.tokens.write_text("[[token")
    log_until(process, "the tokens read before still count")
    assert guarded.admits(address, 1)
    assert {child.pid for child in psutil.Process(process.pid).children()} == before
    assert "died" not in stop(process)


def test_a_token_file_is_read_again_though_its_time_and_size_are_the_same(tmp_path: Path) -> None:
    (old, old_entry), (new, new_entry) = (new_token("a", "reader") for _ in range(2))
    path = tmp_path / "tokens.toml"
    path.write_text(old_entry)
    before = path.stat()
    tokens = TokenFile(path, period=0)
    assert tokens.identify(old).name == "a"
    path.write_text(new_entry)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    after = path.stat()
    assert (after.st_mtime_ns, after.st_size, after.st_ino) == (
        before.st_mtime_ns,
        before.st_size,
        before.st_ino,
    )
    assert tokens.identify(new).name == "a"
    with pytest.raises(NotAuthenticated):
        tokens.identify(old)


@pytest.mark.exhaustive
def test_a_deleted_token_file_revokes_no_token_and_a_metric_shows_that_it_is_missing(
    start_server: Start, guarded: Guarded
) -> None:
    process, address = start_server("--workers", "2", "--metrics-port", "0", "--json", *guarded.flags)
    assert process.stdout is not None
    port = json.loads(process.stdout.readline())["metrics_port"]

    def is_stale() -> bool:
        return scrape(port)["twinspire_access_file_stale['tokens']"] == 1

    assert not is_stale()
    kept = guarded.tokens.with_suffix(".kept")
    guarded.tokens.rename(kept)
    told = log_until(process, "the tokens read before still count")[-1]
    assert f"{guarded.tokens}: there is no such file" in told
    wait_until(is_stale)
    assert guarded.admits(address, 0)
    kept.rename(guarded.tokens)
    log_until(process, f"{guarded.tokens}: read again")
    wait_until(lambda: not is_stale())
    guarded.tokens.write_text("token = []")
    wait_until(lambda: not guarded.admits(address, 0))
    stop(process)


@pytest.mark.exhaustive
def test_a_worker_that_starts_while_the_files_are_unusable_has_their_last_good_content(
    start_server: Start, guarded: Guarded
) -> None:
    process, address = start_server("--workers", "2", *guarded.flags)
    before = workers(process, address, guarded.security())
    guarded.tokens.write_text(guarded.entries[1])  # which revokes the first
    log_until(process, "tokens.toml: read again")
    wait_until(lambda: guarded.has_revoked_first(address))
    guarded.tokens.unlink()
    guarded.key.write_text("junk")
    log_until(process, "the certificate read before")
    os.kill(min(before), signal.SIGKILL)
    wait_until(lambda: len(workers(process, address, guarded.security()) - before) == 1)
    assert all(guarded.has_revoked_first(address) for _ in range(3))
    stop(process)


def test_a_file_that_could_not_be_read_for_a_moment_is_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("twinspire.serving.security.file_watch.RETRY_SECONDS", 0.0)
    (token, entry), path = new_token("a", "reader"), tmp_path / "tokens.toml"
    path.write_text("token = []")
    tokens = TokenFile(path, period=0)
    target = tmp_path / "target.toml"
    target.write_text(entry)
    path.unlink()
    path.symlink_to(target)
    target.chmod(0)
    if os.access(target, os.R_OK):  # for root: a folder is as unreadable
        target.unlink()
        target.mkdir()
    tokens.refresh()
    assert "cannot be read" in tokens.error
    if target.is_dir():
        shutil.rmtree(target)
        target.write_text(entry)
    target.chmod(0o600)
    assert tokens.identify(token).name == "a"
    assert not tokens.error
