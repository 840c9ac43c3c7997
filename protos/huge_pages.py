"""Large tables on huge pages, where the system has them for those who ask: fewer look-ups of addresses.

What a query reads lies scattered over embedding table and graph, on another page each time, and more pages
than the processor keeps the addresses of. With pages of 2 MiB instead of 4 KiB it keeps them all, and a query
on `pydocs` takes 7 to 9 % less.

Linux gives them by itself where `/sys/kernel/mm/transparent_hugepage/enabled` says `always`, and on request
where it says `madvise`, as most distributions have it. Where it says `never`, nobody asks. What is asked for
is what a block of code has taken, once it is filled (MADV_COLLAPSE, Linux 6.1): memory from before it may be
shared with other processes, and would be copied.
"""

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

SYSTEM = Path("/sys/kernel/mm/transparent_hugepage")
LEAST = 4 * 2**20  # bytes in one piece; what is smaller is hardly worth a page of its own
FILLED = 0.75  # share of a piece that must be in use, so that asking takes no more memory to speak of
HUGEPAGE, COLLAPSE = 14, 25  # of `madvise`, from <linux/mman.h>

Span = tuple[int, int]  # addresses, the second excluded


@contextmanager
def on_huge_pages() -> Iterator[None]:
    """Ask for huge pages for the large pieces of memory that the block takes; without them nothing fails.

    It takes the time of copying those pieces. Other threads go on meanwhile.
    """
    size = _page_size()
    before = [span for span, _ in _mapped("maps")] if size else []
    yield
    for span, filled in _mapped("smaps") if size else ():
        if filled >= FILLED * (span[1] - span[0]):
            for piece in _without(span, before):
                _ask(piece, size)


def _page_size() -> int:
    """Bytes of a huge page; 0 where there are none to ask for."""
    try:
        enabled, listed = (SYSTEM / "enabled").read_text(), os.access("/proc/self/smaps", os.R_OK)
        return int((SYSTEM / "hpage_pmd_size").read_text()) if listed and "[never]" not in enabled else 0
    except (OSError, ValueError):
        return 0


def _mapped(file: str) -> Iterator[tuple[Span, int]]:
    """Memory of this process that is of no file, and how much of it is in use, which only `smaps` tells."""
    span: Span | None = None
    for line in Path("/proc/self", file).read_text().splitlines():
        first, *rest = line.split()
        if not first.endswith(":"):  # "7f0c40000000-7f0c48000000 rw-p 00000000 00:00 0   [heap]"
            name = rest[4] if len(rest) > 4 else ""
            begin, end = (int(each, 16) for each in first.split("-"))
            own = rest[0] == "rw-p" and rest[3] == "0" and (not name or name.startswith(("[heap]", "[anon")))
            span = (begin, end) if own and end - begin >= LEAST else None
            if span and file == "maps":
                yield span, 0
        elif first == "Rss:" and span:
            yield span, int(rest[0]) * 1024


def _without(span: Span, others: list[Span]) -> Iterator[Span]:
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
