"""Memory that a block takes is on huge pages afterwards, and what was there before is left alone."""

import gc
import mmap
import os
import platform
import re
from pathlib import Path

import psutil
import pytest

from protos import huge_pages
from protos.huge_pages import Span, on_huge_pages

SIZE = 32 * 2**20
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
RELEASE = tuple(int(each) for each in re.findall(r"\d+", platform.release())[:2])
ENABLED = huge_pages.SYSTEM / "enabled"
LINUX_6_1 = pytest.mark.skipif(
    RELEASE < (6, 1) or not ENABLED.exists() or "[madvise]" not in ENABLED.read_text(),
    reason="moving memory to huge pages, on request and then alone, takes Linux 6.1",
)


def taken() -> mmap.mmap:
    """Memory as a library takes it."""
    memory = mmap.mmap(-1, SIZE, flags=PRIVATE)
    memory[:] = os.urandom(4096) * (SIZE // 4096)
    return memory


def on_huge() -> int:
    """Bytes of this process that are on huge pages, once nothing is left to free."""
    gc.collect()
    told = re.search(r"AnonHugePages: +(\d+) kB", Path("/proc/self/smaps_rollup").read_text())
    assert told
    return int(told[1]) * 1024


@LINUX_6_1
def test_what_a_block_takes_is_moved_to_huge_pages_and_stays_the_same() -> None:
    before = on_huge()
    with on_huge_pages():
        memory = taken()
        content = memory[:]
    assert on_huge() - before >= SIZE - 2 * 2**21  # but for its ends
    assert memory[:] == content
    memory.close()


@LINUX_6_1
def test_what_was_there_before_is_left_alone() -> None:
    memory = taken()
    before = on_huge()
    with on_huge_pages():
        pass
    assert on_huge() == before
    memory.close()


@LINUX_6_1
def test_what_is_hardly_used_is_left_alone() -> None:
    before = on_huge()
    with on_huge_pages():
        memory = mmap.mmap(-1, SIZE, flags=PRIVATE)
        memory[: SIZE // 2] = bytes(SIZE // 2)
    assert on_huge() == before
    memory.close()


@LINUX_6_1
@pytest.mark.parametrize("told", ["always madvise [never]\n", None])
def test_nobody_asks_where_the_system_has_none(
    told: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if told:
        (tmp_path / "enabled").write_text(told)
        (tmp_path / "hpage_pmd_size").write_text("2097152\n")
    monkeypatch.setattr(huge_pages, "SYSTEM", tmp_path)
    before = on_huge()
    with on_huge_pages():
        memory = taken()
    assert on_huge() == before
    memory.close()


@LINUX_6_1
def test_nobody_asks_where_a_process_may_not_know_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise psutil.AccessDenied

    before = on_huge()
    with monkeypatch.context() as patched:
        patched.setattr(psutil.Process, "memory_maps", refused)
        with on_huge_pages():
            memory = taken()
            patched.undo()  # what is known only afterwards says nothing of who shares it
    assert on_huge() == before
    memory.close()


def test_an_error_inside_the_block_is_told() -> None:
    with pytest.raises(ZeroDivisionError), on_huge_pages():
        raise ZeroDivisionError


@pytest.mark.parametrize(
    ("others", "left"),
    [
        ([], [(10, 20)]),
        ([(0, 5), (25, 30)], [(10, 20)]),
        ([(10, 20)], []),
        ([(5, 12), (14, 16)], [(12, 14), (16, 20)]),
        ([(12, 25)], [(10, 12)]),
        ([(0, 10), (20, 30)], [(10, 20)]),
    ],
)
def test_what_is_left_of_a_piece_of_memory(others: list[Span], left: list[Span]) -> None:
    assert [(a, b) for a, b in huge_pages._without((10, 20), others) if a < b] == left
