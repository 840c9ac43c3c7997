"""Which variant is served, and why: the fastest of those whose loss is within the bound."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from train.plots import spelt

AS_FAST = 1.05  # of the fastest; what differs by less changes places from one measurement to the next


@dataclass(frozen=True)
class Candidate:
    """What counts of a variant.

    Args:
        size: bytes.
        deltas: metric -> difference to float32, below 0 where it is worse.
        micros: of a call at the batch size that counts; None where time is no matter.
    """

    name: str
    size: int
    deltas: Mapping[str, float]
    micros: float | None = None


@dataclass(frozen=True)
class Picked:
    """The choice.

    Args:
        name: of the variant.
        why: it was chosen, in a sentence.
        verdicts: of all others: name -> why not.
    """

    name: str
    why: str
    verdicts: dict[str, str]


def pick(candidates: Sequence[Candidate], bound: float, unit: str) -> Picked:
    """The fastest within the bound; of those that are as fast, the smallest, of those the first.

    Args:
        candidates: float32 first, whose loss is none.
        bound: how much any metric may fall.
        unit: what the time is of, in words.
    """
    fit = [each for each in candidates if not _fallen(each, bound)]
    best = min(each.micros or 0 for each in fit)
    fast = [each for each in fit if (each.micros or 0) <= AS_FAST * best]
    chosen = min(fast, key=lambda each: each.size)
    verdicts = {
        each.name: _fallen(each, bound) or _behind(each, chosen, each in fast, unit)
        for each in candidates
        if each is not chosen
    }
    if len(candidates) == 1:
        return Picked(chosen.name, f"{chosen.name}: no other can be made", {})
    return Picked(chosen.name, _why(chosen, candidates[0], fit, fast, bound, unit), verdicts)


def fixed(name: str, candidates: Sequence[Candidate], bound: float, key: str) -> Picked:
    """What the config asks for, with what it costs."""
    chosen = next(each for each in candidates if each.name == name)
    beyond = _fallen(chosen, bound)
    why = f"{name} is set by precision.{key}" + (f", although {beyond}" if beyond else f"; {_told(chosen)}")
    return Picked(name, why, {each.name: "not asked for" for each in candidates if each is not chosen})


def _fallen(candidate: Candidate, bound: float) -> str:
    """By how much a metric falls, where that is too much; empty where none does."""
    worst = min(candidate.deltas, key=lambda name: candidate.deltas[name])
    loss = -candidate.deltas[worst]
    return f"{spelt(worst)} falls by {loss:.4f}, more than {bound:g}" if loss > bound else ""


def _behind(other: Candidate, chosen: Candidate, as_fast: bool, unit: str) -> str:
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
    return f"{chosen.name}: {', '.join(parts)}; {_told(chosen)}"


def _told(chosen: Candidate) -> str:
    return ", ".join(f"{spelt(name)} {delta:+.4f}" for name, delta in chosen.deltas.items())
