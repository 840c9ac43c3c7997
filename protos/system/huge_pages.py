"""Moves large tables to huge pages, so that a query causes fewer TLB misses.

A query reads single rows all over the embedding table and the graph, from more 4 KiB pages than the TLB of
the processor holds. With pages of 2 MiB it holds them all, and a query on `pydocs` takes 6 to 9 % less
time.

If `/sys/kernel/mm/transparent_hugepage/enabled` is `always`, Linux uses huge pages by itself; if it is
`madvise`, as in most distributions, only on request; if it is `never`, this module does nothing. It requests
them for the memory that a block of code has allocated, after the block has filled it (MADV_COLLAPSE,
Linux 6.1). Older memory may be shared with other processes, and would be copied.
"""

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

SYSTEM = Path("/sys/kernel/mm/transparent_hugepage")
MAPS = Path("/proc/self/maps")
MIN_SIZE = 4 * 2**20  # bytes of a mapping; smaller ones gain little
MIN_RESIDENT = 0.75  # share of a mapping that must be resident, so that little memory is added
HUGEPAGE, COLLAPSE = 14, 25  # advice for madvise(2), from <linux/mman.h>

Span = tuple[int, int]  # addresses, the second excluded


@contextlib.contextmanager
def on_huge_pages() -> Iterator[None]:
    """Move the large mappings that the block allocates to huge pages, if the system has them.

    This copies the mappings, while other threads go on.
    """
    size = _page_size()
    before = _large() if size else None
    yield
    if before is None:
        return
    if not any(_whole(piece, size) for span in _large() or () for piece in _without(span, before)):
        return  # counting resident pages takes 20 times as long as listing the mappings
    for span in _resident() or ():
        for piece in _without(span, before):
            if whole := _whole(piece, size):
                _advise(whole)


def _page_size() -> int:
    """Bytes of a huge page; 0 if the system has none."""
    try:
        enabled, bytes_ = (SYSTEM / "enabled").read_text(), (SYSTEM / "hpage_pmd_size").read_text()
        return 0 if "[never]" in enabled else int(bytes_)
    except (OSError, ValueError):
        return 0


def _large() -> list[Span] | None:
    """Large anonymous mappings of this process, by address; None if it must not read its own maps."""
    try:
        lines = MAPS.read_text().splitlines()
    except OSError:
        return None
    found = []
    for line in lines:
        addresses, permissions, _, _, _, *path = line.split(maxsplit=5)
        begin, end = (int(each, 16) for each in addresses.split("-"))
        if permissions == "rw-p" and _anonymous(*path) and end - begin >= MIN_SIZE:
            found.append((begin, end))
    return found


def _resident() -> list[Span] | None:
    """Those of `_large` that are mostly resident."""
    try:
        mapped = psutil.Process().memory_maps(grouped=False)
    except (psutil.Error, OSError):
        return None
    found = []
    for each in mapped:
        own = each.perms == "rw-p" and _anonymous(each.path)
        if own and each.size >= MIN_SIZE and each.rss >= MIN_RESIDENT * each.size:
            begin, end = each.addr.split("-")
            found.append((int(begin, 16), int(end, 16)))
    return found


def _anonymous(path: str = "[anon]") -> bool:
    return path.startswith(("[anon", "[heap]"))


def _without(span: Span, others: Sequence[Span]) -> Iterator[Span]:
    """The parts of a span that are in none of the others, which are sorted."""
    begin, end = span
    for other_begin, other_end in others:
        if begin < other_end and other_begin < end:
            yield begin, other_begin
            begin = other_end
    yield begin, end


def _whole(piece: Span, size: int) -> Span | None:
    """The whole huge pages in a piece; None if they are too few."""
    begin, end = -(-piece[0] // size) * size, piece[1] // size * size
    return (begin, end) if end - begin >= MIN_SIZE else None


def _advise(piece: Span) -> None:
    begin, end = piece
    madvise = ctypes.CDLL(None).madvise
    for advice in (HUGEPAGE, COLLAPSE):  # without the second, Linux moves them later by itself
        madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)
