"""Which bundles answer, how an alias is followed and what a shadow has found: rows for a person to read."""

from collections.abc import Mapping
from typing import Any

UNITS = (("d", 86_400.0), ("h", 3600.0), ("min", 60.0))
AGES = ("last_check_seconds_ago", "next_check_in_seconds", "last_swap_seconds_ago")
DIGITS = 12  # of a bundle's version that are shown


def release_rows(state: Mapping[str, Any], now: float) -> dict[str, str]:
    """What there is to say of a service's bundles.

    Args:
        state: as `Info.state` has it.
        now: Unix time.
    """
    rows = {}
    for each in state["bundles"]:
        rows[each["role"]] = (
            f"{_version(each)}, {each['share']:.4g} of the requests; {each['requests']:,} answered, "
            f"{each['errors']:,} of them with an error"
        )
    return {**rows, **_following(state["following"], now), **_shadow(state["shadow"])}


def ages(following: Mapping[str, Any], now: float) -> dict[str, float | None]:
    """Seconds since the last check, until the next, and since the last swap; None where there is none.

    The times are the server's, and so none of them is below 0 where its clock is another than this one.
    """
    last, due, swap = (following.get(name) or 0.0 for name in ("last_check", "next_check", "last_swap"))
    values = (now - last if last else None, due - now if due else None, now - swap if swap else None)
    return {
        name: None if value is None else max(0.0, value) for name, value in zip(AGES, values, strict=True)
    }


def duration(seconds: float) -> str:
    """As people say it: `7 s`, `12 min`, `3.5 h`."""
    for unit, size in UNITS:
        if seconds >= 2 * size:
            return f"{seconds / size:.3g} {unit}"
    return f"{seconds:.0f} s"


def _following(following: Mapping[str, Any], now: float) -> dict[str, str]:
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


def _shadow(shadow: Mapping[str, Any]) -> dict[str, str]:
    if not shadow:
        return {}
    rows = {
        "shadow": f"{shadow['model']}, {_version(shadow) if shadow['bundle_version'] else 'none'}",
        "shadow's queries": f"{shadow['queries']:,}, {shadow['errors']:,} with an error, {shadow['empty']:,} "
        f"without an answer; {shadow['dropped']:,} dropped",
    }
    if shadow["queries"] > shadow["errors"]:
        ratio = shadow["latency_ratio"]  # 0 is no ratio: no query was asked alone
        rows["beside the champion"] = (
            f"overlap@10 {shadow['overlap_at_10']:.3f}, score {shadow['score_shift']:+.4f}"
            + (f", time {ratio:.2f} times" if ratio else "")
        )
    if shadow["last_error"]:
        rows["shadow's error"] = shadow["last_error"]
    return rows


def _version(served: Mapping[str, Any]) -> str:
    """A bundle, and its version in the registry where it has one."""
    number = f"version {served['model_version']}, " if served["model_version"] else ""
    return f"{number}bundle {served['bundle_version'][:DIGITS]}"
