"""What a challenger has to hold against the champion before it is served.

    decision = compare(challenger, champion, experiment, problem, console)
    write_report(decision, folder)

A manifest says what its maker measured; whatever can be measured again is measured again here, on the
files of both bundles, side by side.
"""

from export.gates.comparison import compare
from export.gates.decision import Decision, Gate, Side
from export.gates.report import write_report

__all__ = ["Decision", "Gate", "Side", "compare", "write_report"]
