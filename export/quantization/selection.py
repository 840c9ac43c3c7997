"""Which variant is served, and why: the fastest of those whose loss of quality is within a bound."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from train.metrics import metric_label

AS_FAST = 1.05  # times within this factor of the fastest are equal; measurements vary by as much


@dataclass(frozen=True)
class Candidate:
    """A variant that may be selected.

    Args:
        size: bytes.
        deltas: metric -> difference from float32, below 0 where it is worse.
        micros: microseconds per call at the decisive batch size; None if time does not matter.
    """

    name: str
    size: int
    deltas: Mapping[str, float]
    micros: float | None = None


@dataclass(frozen=True)
class Selection:
    """The selected variant.

    Args:
        why: it was selected, in a sentence.
        rejections: name of every other variant -> reason.
    """

    name: str
    why: str
    rejections: dict[str, str]


def select(candidates: Sequence[Candidate], bound: float, unit: str) -> Selection:
    """The fastest candidate within the bound; of those that are as fast the smallest, of those the first.

    Args:
        candidates: float32 first, which loses nothing.
        bound: the largest allowed loss of any metric.
        unit: what the time refers to, in words.
    """
    fit = [each for each in candidates if not _excess_loss(each, bound)]
    best = min(each.micros or 0 for each in fit)
    fast = [each for each in fit if (each.micros or 0) <= AS_FAST * best]
    chosen = min(fast, key=lambda each: each.size)
    rejections = {
        each.name: _excess_loss(each, bound) or _disadvantage(each, chosen, each in fast, unit)
        for each in candidates
        if each is not chosen
    }
    if len(candidates) == 1:
        return Selection(chosen.name, f"{chosen.name}: no other can be made", {})
    return Selection(chosen.name, _why(chosen, candidates[0], fit, fast, bound, unit), rejections)


def configured(name: str, candidates: Sequence[Candidate], bound: float, key: str) -> Selection:
    """The variant that the config sets as `precision.<key>`, with its loss."""
    chosen = next(each for each in candidates if each.name == name)
    excess = _excess_loss(chosen, bound)
    why = f"{name} is set by precision.{key}"
    why += f", although {excess}" if excess else f"; {_deltas(chosen)}"
    return Selection(name, why, {each.name: "not asked for" for each in candidates if each is not chosen})


def _excess_loss(candidate: Candidate, bound: float) -> str:
    """The largest loss of a metric in words, if it is above the bound; else empty."""
    worst = min(candidate.deltas, key=lambda name: candidate.deltas[name])
    loss = -candidate.deltas[worst]
    return f"{metric_label(worst)} falls by {loss:.4f}, more than {bound:g}" if loss > bound else ""


def _disadvantage(other: Candidate, chosen: Candidate, as_fast: bool, unit: str) -> str:
    if as_fast:
        fast = f"as fast as {chosen.name}" if other.micros is not None else "within the bound"
        return f"{fast}, but {'larger' if other.size > chosen.size else 'no smaller'}"
    assert other.micros is not None and chosen.micros is not None
    return (
        f"slower than {chosen.name}: {other.micros:,.1f} µs {unit} against {chosen.micros:,.1f}"
        if other.micros > chosen.micros
        else f"no faster than {chosen.name}"
    )


def _why(
    chosen: Candidate,
    plain: Candidate,
    fit: Sequence[Candidate],
    fast: Sequence[Candidate],
    bound: float,
    unit: str,
) -> str:
    if len(fit) == 1:
        return f"{chosen.name}: no other keeps recall@10 and nDCG@10 within {bound:g}"
    parts = []
    if chosen.micros is None:
        parts.append("the smallest within the bound")
    else:
        rank = "the fastest" if len(fast) == 1 else f"the smallest of {len(fast)} that are as fast"
        parts.append(f"{rank} within the bound: {chosen.micros:,.1f} µs {unit}")
        if chosen is not plain and plain.micros is not None:
            parts[-1] += f" against {plain.micros:,.1f}"
    parts.append(f"{chosen.size / plain.size:.1%} of {plain.name}'s size")
    return f"{chosen.name}: {', '.join(parts)}; {_deltas(chosen)}"


def _deltas(chosen: Candidate) -> str:
    return ", ".join(f"{metric_label(name)} {delta:+.4f}" for name, delta in chosen.deltas.items())
