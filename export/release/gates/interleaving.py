"""Gate `interleaving`: whether users prefer the challenger's items in interleaved answers.

    python -m twinspire.export promote --config C --served-log FOLDER --events FILE

The figure is the e-value of `export/served_traffic/preference.py`, which grows with the clicks that favour
the challenger; the bound is 1 / `interleaving_error`. It may be looked at as often as one likes. Without a
served log, a champion, or an answer in which both were interleaved, the gate holds and says so.
"""

from dataclasses import asdict

from twinspire.export.release.gate import Comparison, Gate, GateResult, Judgement
from twinspire.export.served_traffic.preference import preference_of

NAME = "interleaving"


def judge(comparison: Comparison) -> Judgement:
    """The result, and wins, losses and interval; nothing where there are no answers to judge by."""
    error = comparison.gates.interleaving_error
    bound, answers = 1 / error, comparison.answers
    if answers is None:
        return _skipped(bound, "no --served-log and --events were given")
    if comparison.champion is None:
        return _skipped(bound, "there is no champion")
    champion, challenger = (
        each.manifest.bundle_version for each in (comparison.champion, comparison.challenger)
    )
    found = preference_of(answers, champion, challenger, error)
    if found is None:
        return _skipped(bound, "the served log has no answer in which the two were interleaved")
    is_better = found.decision == "better"
    return GateResult(NAME, found.e_value, bound, is_better, found.text), asdict(found)


def _skipped(bound: float, why: str) -> Judgement:
    return GateResult(NAME, None, bound, True, f"not judged: {why}"), {}


GATES = (
    Gate(
        name=NAME,
        title="preference in interleaved answers",
        order=39,
        judge=judge,
        shown=lambda figure: f"{figure:,.3g}",
        at_least=True,
        note="An e-value: evidence that users prefer the challenger. The first decision stays.",
    ),
)
