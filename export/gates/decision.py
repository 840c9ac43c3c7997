"""A decision: the gates, what was measured for them, and what follows."""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from protos.bundle import Manifest

# In the order in which people are told.
NAMES = (
    "parity",
    "index_recall",
    "quality",
    "query_tower_latency",
    "retriever_latency",
    "bundle_size",
    "load_time",
    "shadow",
)


@dataclass(frozen=True)
class Side:
    """One registered model version.

    Args:
        version: in the registry.
        folder: of its bundle on this disk.
        manifest: of that bundle.
    """

    version: str
    folder: Path
    manifest: Manifest

    def document(self) -> dict[str, Any]:
        """Who it is, ready for JSON."""
        manifest = self.manifest
        return {
            "version": self.version,
            "bundle_version": manifest.bundle_version,
            "run_id": manifest.run_id,
            "git_commit": manifest.git_commit,
            "split_hash": manifest.split_hash,
            "data_set": manifest.dataset.get("name", ""),
            "items": manifest.count,
            "dimension": manifest.dimension,
            "index": asdict(manifest.index),
        }


@dataclass(frozen=True)
class Gate:
    """One figure and its bound.

    Args:
        name: one of `NAMES`.
        figure: what was measured; None where there is nothing to measure, or it could not be measured.
        bound: that the figure must keep.
        holds: whether it does.
        text: what was measured, and how it came out, in a sentence.
    """

    name: str
    figure: float | None
    bound: float
    holds: bool
    text: str


@dataclass(frozen=True)
class Decision:
    """Whether a challenger is fit to be champion.

    Args:
        challenger: who asks.
        champion: who it was compared with, if there is one.
        gates: in the order of `NAMES`; one that could not be measured is left out, and `load_time` or
            `parity`, whose fault that is, refuses.
        measured: everything behind the figures, ready for JSON; `not_measured` names the gates left out.
    """

    challenger: Side
    champion: Side | None
    gates: tuple[Gate, ...]
    measured: dict[str, Any]

    @property
    def refused(self) -> tuple[Gate, ...]:
        """The gates that do not hold."""
        return tuple(gate for gate in self.gates if not gate.holds)

    @property
    def accepted(self) -> bool:
        """Whether all gates hold."""
        return not self.refused

    def verdict(self) -> str:
        """The outcome in a sentence."""
        if self.accepted:
            return f"accepted: all {len(self.gates)} gates hold"
        return "refused by " + "; ".join(f"{gate.name}: {gate.text}" for gate in self.refused)

    def document(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        return {
            "accepted": self.accepted,
            "verdict": self.verdict(),
            "refused": [gate.name for gate in self.refused],
            "challenger": self.challenger.document(),
            "champion": self.champion and self.champion.document(),
            "gates": [asdict(gate) for gate in self.gates],
            "measured": self.measured,
        }
