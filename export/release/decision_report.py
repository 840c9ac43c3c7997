"""A decision as files: JSON for programs, and a page for people, as HTML and as Markdown.

The page names no gate: each gate brings its title, its format and its section.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from twinspire.export.release.gate import ComparedVersion, Decision, Gate
from twinspire.export.release.gates import GATES
from twinspire.protos.bundle import write_file
from twinspire.train.html_page import html_page
from twinspire.train.markdown import code, plain, table

JSON = "decision.json"
PAGE = "decision.html"
MARKDOWN = "decision.md"


def write_report(decision: Decision, folder: Path, gates: Mapping[str, Gate] = GATES) -> None:
    """Write `decision.json` and the page in both forms into a folder, which is made if missing."""
    folder.mkdir(parents=True, exist_ok=True)
    text = json.dumps(decision.document(), indent=2, sort_keys=True, ensure_ascii=False, allow_nan=False)
    write_file(folder / JSON, f"{text}\n".encode())
    text = page(decision, gates)
    write_file(folder / MARKDOWN, text.encode())
    write_file(folder / PAGE, html_page(text, {}).encode())


def page(decision: Decision, gates: Mapping[str, Gate] = GATES) -> str:
    """The decision as Markdown."""
    challenger, outcome = decision.challenger, "accepted" if decision.accepted else "refused"
    parts = [
        f"# {plain(challenger.manifest.name)}: version {plain(challenger.version)} is {outcome}",
        _verdict(decision, gates),
        *(f"**Warning.** {plain(text)}." for text in decision.warnings),
        _results(decision, gates),
        " ".join(gate.note for gate in gates.values() if gate.note),
        "## The bundles",
        _bundles(decision),
    ]
    for section in dict.fromkeys(gate.section for gate in gates.values() if gate.section is not None):
        text = section.text(decision)
        parts += [f"## {section.title}", text] if text else []
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict(decision: Decision, gates: Mapping[str, Gate]) -> str:
    champion = decision.champion
    compared = (
        f"Compared with the champion, version {plain(champion.version)}"
        if champion
        else "There is no champion yet"
    )
    if decision.accepted:
        return f"**Accepted.** All {len(decision.results)} gates hold. {compared}."
    lines = [f"- **{gates[result.name].title}**: {plain(result.text)}" for result in decision.refused]
    return f"**Refused.** {compared}. What does not hold:\n\n" + "\n".join(lines)


def _results(decision: Decision, gates: Mapping[str, Gate]) -> str:
    rows = []
    for result in decision.results:
        gate = gates[result.name]
        outcome = "pass" if result.holds else "**refuse**"
        if result.holds and result.figure is None:
            outcome = "not compared"
        elif result.holds and result.warning:
            outcome = "warned"
        bound = gate.shown_bound(result.bound, result.lower_is_better)
        figures = gate.shown_figure(result.figure), bound
        rows.append([gate.title, *figures, outcome, plain(result.text)])
    left_out = decision.measured.get("not_measured", ())
    rows += [[gates[name].title, "–", "–", "not measured", "see what refuses"] for name in left_out]
    return table(["gate", "figure", "bound", "outcome", "measured"], rows, "lrrll")


def _bundles(decision: Decision) -> str:
    versions = decision.versions

    def row(title: str, cell: Callable[[ComparedVersion], str]) -> list[str]:
        return [title, *map(cell, versions.values())]

    rows = [
        row("version", lambda each: plain(each.version)),
        row("bundle", lambda each: code(each.manifest.bundle_version[:12])),
        row("run", lambda each: code(each.manifest.run_id)),
        row("commit", lambda each: code(each.manifest.git_commit[:12]) if each.manifest.git_commit else "–"),
        row("split", lambda each: code(each.manifest.split_hash[:12])),
        row("items × D", lambda each: f"{each.manifest.count:,} × {each.manifest.dimension}"),
        row("index", lambda each: plain(each.manifest.index.describe())),
    ]
    return table(["", *versions], rows, "l" + "l" * len(versions))
