"""Drafts are removed with their process, and nothing else is."""

import signal
import subprocess
import sys
from pathlib import Path

from twinspire.protos.files import atomic_directory
from twinspire.train.paths import ROOT

KILLED = """
import os, signal, sys
from pathlib import Path
from twinspire.protos.files import atomic_directory
with atomic_directory.draft(Path(sys.argv[1]), sys.argv[2]) as draft:
    (draft / "half").write_text("half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def listed(folder: Path) -> list[str]:
    return sorted(each.name for each in folder.iterdir())


def test_the_draft_of_a_killed_process_is_removed_and_folders_of_the_user_stay(tmp_path: Path) -> None:
    code = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path), ".bundle-"], cwd=ROOT).returncode
    assert code == -signal.SIGKILL
    assert len(listed(tmp_path)) == 2
    own = (
        ".download-notes",
        ".download-0123456789ab",  # without a lock file
        ".download-0123456789abc",
        ".bundle-of-mine",
        ".making-0123456789AB",
        ".variants-0123456789ab",
        ".removed-photos",
        ".other-0123456789ab",
    )
    for name in own:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    for name in own[2:]:
        (tmp_path / f"{name}.lock").touch()
    before = sorted(name for name in listed(tmp_path) if name.removesuffix(".lock") in own)
    assert atomic_directory.remove_abandoned(tmp_path) == 1
    assert listed(tmp_path) == before
    assert all((tmp_path / name / "file").exists() for name in own)


def test_a_folder_that_a_killed_process_was_removing_is_removed(tmp_path: Path) -> None:
    (tmp_path / ".removed-0123456789ab").mkdir()
    (tmp_path / ".removed-0123456789ab.lock").touch()
    assert atomic_directory.remove_abandoned(tmp_path) == 0  # it is not a draft
    assert listed(tmp_path) == []


def test_a_folder_is_removed_and_what_a_link_leads_to_is_not(tmp_path: Path) -> None:
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "two")
    for name in ("one", "link", "gone", "gone/too"):
        atomic_directory.remove(tmp_path / name)
    assert listed(tmp_path) == ["two"]
    assert listed(tmp_path / "two") == ["file"]


def test_a_draft_that_cannot_be_deleted_keeps_its_lock_file(tmp_path: Path) -> None:
    with atomic_directory.draft(tmp_path) as draft:
        draft.rmdir()
        draft.touch()  # a file, which the deletion of a folder fails on, also for root
    assert listed(tmp_path) == [draft.name, f"{draft.name}.lock"]
    draft.unlink()
    assert atomic_directory.remove_abandoned(tmp_path) == 1
    assert listed(tmp_path) == []
