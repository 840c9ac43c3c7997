"""An answer of the RPC `Releases`, made by hand: tests of clients and of the page need no registry for it."""

import time
from typing import Any

from protos import retrieval_pb2 as wire

MODEL = "models:/tiny@champion"
HOSTILE = "<img src=x onerror=\"document.title='owned';console.error('a-reason-ran-as-a-script')\">"
HELD: dict[str, Any] = {
    "name": "index_recall",
    "title": "recall of the index",
    "figure": 0.9876,
    "bound": 0.95,
    "holds": True,
    "shown_figure": "0.9876",
    "shown_bound": "≥ 0.9500",
}
OLD: dict[str, Any] = {"name": "load_time", "figure": 1.5, "bound": 30.0, "holds": True}  # without texts
UNMEASURED: dict[str, Any] = {"name": "parity", "bound": 1e-5, "holds": False}
FAILED: dict[str, Any] = {
    **{"name": "quality", "title": HOSTILE, "figure": -0.05, "bound": -0.01, "holds": False},
    **{"shown_figure": "-0.0500", "shown_bound": "≥ -0.0100", "warning": f"loses to BM25 {HOSTILE}"},
}


def record(number: int, action: str, before: str, after: str, gates: Any = (), **others: Any) -> Any:
    """A record that is done, unless `others` says otherwise."""
    fields = {
        "at": f"2026-11-25T14:{number:02}:00.123+00:00",
        "actor": "ann@one",
        "outcome": "done",
        "moved": action != "refuse",
        "run_id": "r" * 32,
        **others,
    }
    results = [wire.GateResult(**gate) for gate in gates]
    return wire.ReleaseRecord(
        number=number, action=action, before=before, after=after, gates=results, **fields
    )


def releases() -> wire.ReleasesResponse:
    """Of version 2, which was promoted by force, and again the champion after a rollback from version 3."""
    forced = record(5, "force", "1", "2", (HELD, OLD, UNMEASURED, FAILED), reason="the shop opens")
    records = [
        record(8, "promote", "2", "4", outcome="interrupted", moved=False, at=HOSTILE),
        record(7, "rollback", "3", "2", actor=HOSTILE, reason=HOSTILE),
        record(6, "promote", "2", "3", (HELD,)),
        forced,
        record(4, "refuse", "1", "2", (HELD, FAILED)),
        *(record(number, "promote", "", "1", (HELD,)) for number in (3, 2, 1)),
    ]
    return wire.ReleasesResponse(
        model=MODEL,
        model_version="2",
        bundle_version="b" * 64,
        promotion=forced,
        records=records,
        read_at=time.time() - 90,
        last_error="the table is locked",
    )
