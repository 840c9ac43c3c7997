"""Large tables on huge pages, where the system has them for those who ask: fewer look-ups of addresses.

What a query reads lies scattered over embedding table and graph, on another page each time, and more pages
than the processor keeps the addresses of. With pages of 2 MiB instead of 4 KiB it keeps them all, and a query
on `pydocs` takes 6 to 9 % less.

Linux gives them by itself where `/sys/kernel/mm/transparent_hugepage/enabled` says `always`, and on request
where it says `madvise`, as most distributions have it. Where it says `never`, nobody asks. What is asked for
is what a block of code has taken, once it is filled (MADV_COLLAPSE, Linux 6.1): memory from before it may be
shared with other processes, and would be copied.
"""

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil

SYSTEM = Path("/sys/kernel/mm/transparent_hugepage")
LEAST = 4 * 2**20  # bytes in one piece; what is smaller is hardly worth a page of its own
FILLED = 0.75  # share of a piece that must be in use, so that asking takes no more memory to speak of
HUGEPAGE, COLLAPSE = 14, 25  # of `madvise`, from <linux/mman.h>

Span = tuple[int, int]  # addresses, the second excluded


@contextlib.contextmanager
def on_huge_pages() -> Iterator[None]:
    """Ask for huge pages for the large pieces of memory that the block takes; without them nothing fails.

    It takes the time of copying those pieces. Other threads go on meanwhile.
    """
    size = _page_size()
    before = _large(0) if size else None
    yield
    if before is None:
        return
    for span in _large(FILLED) or ():
        for piece in _without(span, before):
            _ask(piece, size)


def _page_size() -> int:
    """Bytes of a huge page; 0 where there are none to ask for."""
    try:
        enabled, bytes_ = (SYSTEM / "enabled").read_text(), (SYSTEM / "hpage_pmd_size").read_text()
        return 0 if "[never]" in enabled else int(bytes_)
    except (OSError, ValueError):
        return 0


def _large(filled: float) -> list[Span] | None:
    """Large pieces of memory of this process that are of no file, in order; None where it may not know them.

    Args:
        filled: the share of a piece that is in use, at least.
    """
    try:
        mapped = psutil.Process().memory_maps(grouped=False)
    except (psutil.Error, OSError):
        return None
    found = []
    for each in mapped:
        own = each.perms == "rw-p" and each.path.startswith(("[anon", "[heap]"))
        if own and each.size >= LEAST and each.rss >= filled * each.size:
            begin, end = each.addr.split("-")
            found.append((int(begin, 16), int(end, 16)))
    return found


def _without(span: Span, others: Sequence[Span]) -> Iterator[Span]:
    """What of a span is in none of the others, which are in order."""
    begin, end = span
    for other_begin, other_end in others:
        if begin < other_end and other_begin < end:
            yield begin, other_begin
            begin = other_end
    yield begin, end


def _ask(piece: Span, size: int) -> None:
    begin, end = -(-piece[0] // size) * size, piece[1] // size * size
    if end - begin < LEAST:
        return
    madvise = ctypes.CDLL(None).madvise
    for advice in (HUGEPAGE, COLLAPSE):  # a system that knows not the second moves them there in its own time
        madvise(ctypes.c_void_p(begin), ctypes.c_size_t(end - begin), advice)
