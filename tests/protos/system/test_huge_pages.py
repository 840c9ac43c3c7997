"""Memory that a block allocates is on huge pages afterwards; older memory is left alone."""

import ctypes
import mmap
import os
import platform
import re
from pathlib import Path

import psutil
import pytest

from twinspire.protos.system import huge_pages
from twinspire.protos.system.huge_pages import Span, on_huge_pages

SIZE = 32 * 2**20
PRIVATE = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
RELEASE = tuple(int(each) for each in re.findall(r"\d+", platform.release())[:2])
ENABLED = huge_pages.SYSTEM / "enabled"
LINUX_6_1 = pytest.mark.skipif(
    RELEASE < (6, 1) or not ENABLED.exists() or "[madvise]" not in ENABLED.read_text(),
    reason="moving memory to huge pages, on request and then alone, takes Linux 6.1",
)


def empty() -> mmap.mmap:
    """Memory as a library reserves it, which the kernel keeps apart from the mappings beside it."""
    memory = mmap.mmap(-1, SIZE, flags=PRIVATE)
    memory.madvise(mmap.MADV_DONTFORK)  # mappings with different flags are not merged
    return memory


def taken() -> mmap.mmap:
    """Memory as a library allocates and fills it."""
    memory = empty()
    memory[:] = os.urandom(4096) * (SIZE // 4096)
    return memory


def on_huge(memory: mmap.mmap) -> int:
    """Bytes of a mapping that are on huge pages.

    Not of the whole process: its other memory comes and goes, and Linux moves it by itself.
    """
    begin = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    found, inside = 0, False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if addresses := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            inside = begin <= int(addresses[1], 16) < begin + SIZE
        elif inside and (kilobytes := re.match(r"AnonHugePages: +(\d+) kB", line)):
            found += int(kilobytes[1]) * 1024
    return found


@LINUX_6_1
def test_what_a_block_takes_is_moved_to_huge_pages_and_stays_the_same() -> None:
    with on_huge_pages():
        memory = taken()
        content = memory[:]
    assert on_huge(memory) >= SIZE - 2 * 2**21  # except its ends
    assert memory[:] == content
    memory.close()


@LINUX_6_1
def test_what_was_there_before_is_left_alone() -> None:
    memory = taken()
    with on_huge_pages():
        pass
    assert on_huge(memory) == 0
    memory.close()


@LINUX_6_1
def test_a_mapping_that_is_mostly_not_resident_stays() -> None:
    with on_huge_pages():
        memory = empty()
        memory[: SIZE // 2] = bytes(SIZE // 2)
    assert on_huge(memory) == 0
    memory.close()


@LINUX_6_1
@pytest.mark.parametrize("enabled", ["always madvise [never]\n", None])
def test_nothing_is_done_if_the_system_has_no_huge_pages(
    enabled: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if enabled:
        (tmp_path / "enabled").write_text(enabled)
        (tmp_path / "hpage_pmd_size").write_text("2097152\n")
    monkeypatch.setattr(huge_pages, "SYSTEM", tmp_path)
    with on_huge_pages():
        memory = taken()
    assert on_huge(memory) == 0
    memory.close()


@LINUX_6_1
def test_nothing_is_done_if_a_process_must_not_read_its_maps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(huge_pages, "MAPS", tmp_path / "none")
        with on_huge_pages():
            memory = taken()
            patched.undo()  # maps that are read only afterwards do not show what is new
    assert on_huge(memory) == 0
    memory.close()


@LINUX_6_1
def test_nothing_is_done_if_a_process_must_not_count_its_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def refused(*_: object, **__: object) -> None:
        asked.append(True)
        raise psutil.AccessDenied

    monkeypatch.setattr(psutil.Process, "memory_maps", refused)
    with on_huge_pages():
        memory = taken()
    assert asked
    assert on_huge(memory) == 0
    memory.close()


@LINUX_6_1
def test_pages_are_not_counted_for_a_block_that_allocates_little(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil.Process, "memory_maps", lambda *_, **__: pytest.fail("they were counted"))
    with on_huge_pages():
        assert bytes(2**16)


def test_an_error_inside_the_block_is_raised() -> None:
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
def test_the_parts_of_a_mapping_that_are_in_no_other(others: list[Span], left: list[Span]) -> None:
    assert [(a, b) for a, b in huge_pages._without((10, 20), others) if a < b] == left
