"""Answers and the state of a server as tables."""

import time
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from twinspire.protos.cli import printable
from twinspire.protos.scores import PARTS
from twinspire.serving.retrieval.answer import Answer, Basis, FusionMode, Scores
from twinspire.serving.wire.converters import Info

WIDTH = 120  # if the output is not a terminal
UNITS = (("d", 86_400.0), ("h", 3600.0), ("min", 60.0))
AGES = ("last_check_seconds_ago", "next_check_in_seconds", "last_swap_seconds_ago")
IN_BYTES = ("max_message_bytes", "max_answer_bytes")  # of `RequestLimits`
DIGITS = 12  # shown of a bundle's version
HEADINGS = ("name", "title")  # display fields that come first
REMARKS = {
    Basis.CONTEXT: "no known item in the history: the answer is based on other features or the time",
    Basis.POPULAR: "nothing known in the query: these are the most popular items, "
    "with their share of all interactions",
    Basis.NONE: "nothing known in the query, and no item is more popular than others: no hits",
}
SCORE_REMARKS = {
    Basis.CONTEXT: REMARKS[Basis.CONTEXT].replace("the answer is", "the scores are"),
    **dict.fromkeys(
        (Basis.POPULAR, Basis.NONE), "nothing known in the query: these are the scores of an empty one"
    ),
}

PART_WIDTH = 7


def cell(value: object) -> Text:
    """A cell of a table: a text of a service as one line, without control characters."""
    return Text(printable(str(value)))


def show_answer(console: Console, answer: Answer) -> None:
    """Show hits with rank, score and display fields, then their basis, bundle and timing."""
    identified = all(hit.fields.get("name") == hit.id for hit in answer.hits)
    fields = _field_names(answer)
    rows = [
        {
            **{name: printable(hit.fields.get(name, "")) for name in fields},
            **({} if identified else {"id": printable(hit.id)}),
        }
        for hit in answer.hits
    ]
    popular = answer.basis is Basis.POPULAR
    scores = [f"{hit.score:.2%}" if popular else f"{hit.score:.4f}" for hit in answer.hits]
    score_width = max(map(len, ["score", *scores, "0.0000"]))
    is_fused = answer.fusion in (FusionMode.HYBRID, FusionMode.LEXICAL)
    shown = [
        name for name in PARTS if is_fused and any(getattr(hit, name) is not None for hit in answer.hits)
    ]
    parts = [[f"{getattr(hit, name) or 0:.4f}" for name in shown] for hit in answer.hits]
    table = Table(box=None, pad_edge=False)
    table.add_column("rank", justify="right", width=4)
    table.add_column("share" if popular else "score", justify="right", width=score_width)
    for name in shown:
        table.add_column(name, justify="right", width=PART_WIDTH)
    taken = 8 + score_width + len(shown) * (PART_WIDTH + 2)
    for name, width in _widths(rows, console.width - taken).items():
        table.add_column(cell(name), overflow="ellipsis", no_wrap=True, width=width)
    for rank, (score, part, row) in enumerate(zip(scores, parts, rows, strict=True), 1):
        table.add_row(str(rank), score, *part, *map(Text, row.values()))
    console.print(table)
    if answer.weak and answer.basis.is_searched:  # the other bases have remarks of their own
        console.print("nothing matches well", style="yellow", highlight=False)
    for remark in _remarks(answer, REMARKS):
        console.print(remark, style="yellow", highlight=False)
    timing = answer.timing
    console.print(
        f"bundle {printable(answer.bundle_version[:12])}, queue {timing.queue_us} us, "
        f"encode {timing.encode_us} us, search {timing.search_us} us",
        style="dim",
        highlight=False,
    )


def _remarks(answer: Answer | Scores, of_basis: Mapping[Basis, str]) -> list[str]:
    """Remarks on the basis of an answer, and on the items of its history that were skipped."""
    remarks = [of_basis[answer.basis]] if answer.basis in of_basis else []
    if answer.unknown_history:
        items = "1 item" if answer.unknown_history == 1 else f"{answer.unknown_history} items"
        remarks.append(f"{items} of the history skipped: unknown to the query tower")
    return remarks


def show_vectors(console: Console, texts: Sequence[str], vectors: Sequence[Sequence[float]]) -> None:
    """Show the first coordinates of each vector."""
    rows = {
        text: " ".join(f"{value:+.3f}" for value in vector[:8]) + (" ..." if len(vector) > 8 else "")
        for text, vector in zip(texts, vectors, strict=True)
    }
    show_pairs(console, rows)


def show_scores(console: Console, found: Scores) -> None:
    """Show the score of each item, in the order of the request."""
    table = Table("item", found.kind.replace("_", " "), box=None)
    for item_id, value in found.items:
        table.add_row(cell(item_id), "not in the catalogue" if value is None else f"{value:.6f}")
    console.print(table)
    for remark in _remarks(found, SCORE_REMARKS):
        console.print(remark, style="yellow", highlight=False)


def show_info(console: Console, info: Info) -> None:
    """Show what a server serves."""
    rows = {
        "name": info.name,
        "bundle version": info.bundle_version,
        "run": info.run_id,
        "items": f"{info.item_count:,}",
        "dimension": info.dimension,
        "query features": ", ".join(f"{n} ({kind})" for n, kind in info.query_features.items()),
        "display fields": ", ".join(info.display_fields),
        "filter fields": ", ".join(f"{n} ({kind})" for n, kind in sorted(info.filter_fields.items())),
        **release_rows(info.state, time.time()),
        **_state_rows(info.state),
    }
    limits = {
        name: size(most) if name in IN_BYTES else f"{most:,}" for name, most in vars(info.limits).items()
    }
    show_pairs(console, {**rows, **limits})


def show_status(console: Console, name: str, state: Mapping[str, Any]) -> None:
    """Show which bundles answer, which candidate is being prepared, and the last error.

    Args:
        state: `Info.state`.
    """
    rows = {
        "name": name,
        **release_rows(state, time.time()),
        "workers": _workers(state),
        "uptime": duration(state["uptime_seconds"]),
    }
    show_pairs(console, rows)


def _state_rows(state: Mapping[str, Any]) -> dict[str, str]:
    """Rows about the service: workers, requests, current load and protection."""
    protection = {"TLS": "tls", "client certificates": "client_certificates", "tokens": "tokens"}
    on = [name for name, key in protection.items() if state[key]]
    rate = f"{state['rate_per_second']:g} queries/s a client" if state["rate_per_second"] else "no bound"
    return {
        "uptime": f"{state['uptime_seconds']:.0f} s",
        "workers": f"{_workers(state)}; this is process {state['worker_pid']}",
        "requests": _counts(state["requests"]),
        "queries": f"{state['queries']:,} answered; refused: {_counts(state['refused'])}",
        "now": f"{state['in_flight']} in flight, {state['queue_depth']} of {state['queue_bound']} queued, "
        f"{state['streams']} streams",
        "protection": ", ".join(on) or "none",
        "rate": rate,
    }


def _workers(state: Mapping[str, Any]) -> str:
    return f"{state['workers_up']} of {state['workers']} up, {state['restarts']} restarts"


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in sorted(counts.items())) or "none"


def show_pairs(console: Console, rows: Mapping[str, Any]) -> None:
    """Show a table of names and values."""
    table = Table(box=None, show_header=False, pad_edge=False)
    table.add_column(style="dim")
    table.add_column()
    for name, value in rows.items():
        table.add_row(cell(name), cell(value))
    console.print(table)


def _widths(rows: Sequence[Mapping[str, str]], room: int) -> dict[str, int]:
    """The width of each field's column: its widest value, and less where all columns exceed `room`.

    Args:
        rows: of the table, all with the same fields.
        room: characters for all columns.
    """
    widths = {name: max(len(name), *(len(row[name]) for row in rows)) for name in (rows[0] if rows else {})}
    while sum(widths.values()) + 2 * len(widths) > room and max(widths.values(), default=0) > 8:
        widest = max(widths, key=lambda name: widths[name])
        widths[widest] -= 1
    return widths


def console() -> Console:
    """Standard output, with a fixed width if it is a file or a pipe."""
    output = Console()
    return output if output.is_terminal else Console(width=WIDTH)


def _field_names(answer: Answer) -> list[str]:
    """All display fields of the hits, a name or a title first."""
    names = {name for hit in answer.hits for name in hit.fields}
    return sorted(names, key=lambda name: (name not in HEADINGS, name))


def release_rows(state: Mapping[str, Any], now: float) -> dict[str, str]:
    """Rows about a service's bundles.

    Args:
        state: `Info.state`.
        now: Unix time.
    """
    rows = {}
    for each in state["bundles"]:
        rows[each["role"]] = (
            f"{_version(each)}, {100 * each['share']:.4g} % of the requests; {each['requests']:,} answered, "
            f"{each['errors']:,} of them with an error"
        )
    rows |= _following_rows(state["following"], now)
    rows |= {**_shadow_rows(state["shadow"]), **_catalogue_rows(state.get("catalogue") or {})}
    return {**rows, **_log_rows(state.get("served_log") or {})}


def ages(following: Mapping[str, Any], now: float) -> dict[str, float | None]:
    """Seconds since the last check, until the next, and since the last swap; None if there is none.

    The times are by the server's clock, which may differ from this one; the result is never below 0.
    """
    last, due, swap = (following.get(name) or 0.0 for name in ("last_check", "next_check", "last_swap"))
    values = (now - last if last else None, due - now if due else None, now - swap if swap else None)
    return {
        name: None if value is None else max(0.0, value) for name, value in zip(AGES, values, strict=True)
    }


def duration(seconds: float) -> str:
    """A duration with its unit: `7 s`, `12 min`, `3.5 h`."""
    for unit, size in UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def size(bytes_: int) -> str:
    """A number of bytes with a binary unit: `4 MiB`, `1.5 GiB`, `512 bytes`."""
    for unit, power in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if bytes_ >= 1 << power:
            return f"{bytes_ / (1 << power):.4g} {unit}"
    return f"{bytes_} bytes"


def _following_rows(following: Mapping[str, Any], now: float) -> dict[str, str]:
    if not following:
        return {"follows": "nothing: what is served now is served for good"}
    age = ages(following, now)
    last, due, swap = (age[name] for name in AGES)
    checked = "not checked yet" if last is None else f"checked {duration(last)} ago"
    again = "" if due is None else f", again in {duration(due)}"
    swapped = "" if swap is None else f", the last {duration(swap)} ago"
    failures = following["failures"]
    rows = {"follows": f"{following['model']}, {checked}{again}"}
    if following["candidate"]:
        digits = following["candidate_bundle"][:DIGITS] or "unknown"
        rows["candidate"] = (
            f"version {following['candidate']}, bundle {digits}: {following['candidate_stage']}"
        )
    else:
        rows["candidate"] = "none"
    error = following["last_error"]
    rows["last error"] = f"{error} ({failures} in a row)" if error and failures > 1 else error or "none"
    rows["changes"] = f"{following['swaps']:,} swaps{swapped}; {following['refused']:,} versions refused"
    return rows


def _log_rows(log: Mapping[str, Any]) -> dict[str, str]:
    if not log:
        return {}
    rows = {"served log": f"{log['rows']:,} answers, {log['dropped']:,} dropped; {log['bytes']:,} bytes"}
    if log["last_error"]:
        rows["served log's error"] = log["last_error"]
    return rows


def _shadow_rows(shadow: Mapping[str, Any]) -> dict[str, str]:
    if not shadow:
        return {}
    rows = {
        "shadow": f"{shadow['model']}, {_version(shadow) if shadow['bundle_version'] else 'none'}",
        "shadow's queries": f"{shadow['queries']:,}, {shadow['errors']:,} with an error, {shadow['empty']:,} "
        f"without an answer; {shadow['dropped']:,} dropped",
    }
    if shadow["queries"] > shadow["errors"]:
        means = f"overlap@10 {shadow['overlap_at_10']:.3f}, score {shadow['score_shift']:+.4f}"
        rows["beside the champion"] = means
    if shadow["last_error"]:
        rows["shadow's error"] = shadow["last_error"]
    return rows


def _catalogue_rows(catalogue: Mapping[str, Any]) -> dict[str, str]:
    bounds = catalogue.get("bounds") or {}
    if not bounds:
        return {}
    rows = {
        "live items": f"{catalogue['live_items']:,}, and {catalogue['tombstones']:,} deletes, of at most "
        f"{bounds['max_overlay']:,}; the worker is at sequence {catalogue['worker_sequence']} of "
        f"{catalogue['sequence']}",
        "writes": f"at most {bounds['max_batch']:,} items in a request, {size(bounds['max_item_bytes'])} in "
        f"an item, {bounds['max_lag']:,} changes not encoded yet",
    }
    if catalogue["last_error"]:
        rows["catalogue's error"] = catalogue["last_error"]
    return rows


def _version(served: Mapping[str, Any]) -> str:
    """A bundle, and its version in the registry if it has one."""
    number = f"version {served['model_version']}, " if served["model_version"] else ""
    return f"{number}bundle {served['bundle_version'][:DIGITS]}"
