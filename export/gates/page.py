"""The page of a decision, in Markdown: the verdict first, then what it rests on."""

from collections.abc import Callable, Collection, Mapping
from typing import Any

from export.gates.decision import Decision, Side
from export.markdown import code, picture, plain, table
from train.baselines import LABELS
from train.plots import spelt

TITLES = {
    "parity": "parity of torch and ONNX Runtime",
    "index_recall": "recall of the index",
    "quality": "quality against the champion",
    "query_tower_latency": "p99 of the query tower",
    "retriever_latency": "p99 of the retriever",
    "bundle_size": "size of the bundle",
    "load_time": "time to load",
    "shadow": "live queries as a shadow",
}
UNITS: dict[str, Callable[[float], str]] = {
    "parity": lambda figure: f"{figure:.1e}",
    "index_recall": lambda figure: f"{figure:.4f}",
    "quality": lambda figure: f"{figure:+.4f}",
    "query_tower_latency": lambda figure: f"{figure:.2f} ×",
    "retriever_latency": lambda figure: f"{figure:.2f} ×",
    "bundle_size": lambda figure: f"{figure:,.1f} MiB",
    "load_time": lambda figure: f"{figure:.2f} s",
    "shadow": lambda figure: f"{figure:,.0f}",
}
HOW = (
    "The figure of quality is the lower end of the 95 % interval of the paired difference. The figure of a "
    "latency is the median ratio of several rounds, and refuses only where the lower end of its interval is "
    "above the bound; so does recall, where the upper end of its interval is below."
)
AT_LEAST = ("index_recall", "quality", "shadow")
SHOWN = ("recall_at_10", "recall_at_20", "hr_at_10", "ndcg_at_10", "mrr_at_10")


def page(decision: Decision, plots: Collection[str] = ()) -> str:
    """The page.

    Args:
        plots: names of the plots that lie beside it.
    """
    challenger, outcome = decision.challenger, "accepted" if decision.accepted else "refused"
    parts = [
        f"# {plain(challenger.manifest.name)}: version {plain(challenger.version)} is {outcome}",
        _verdict(decision),
        _gates(decision),
        "## The bundles",
        _bundles(decision),
        "## Quality",
        _quality(decision),
        picture("quality.png", "Paired difference of quality, with its interval and the margin", plots),
        "## Latency",
        _latency(decision),
        picture("latency.png", "Distribution of latencies of query towers and retrievers", plots),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _verdict(decision: Decision) -> str:
    champion = decision.champion
    beside = (
        f"Compared with the champion, version {plain(champion.version)}"
        if champion
        else "There is no champion yet"
    )
    if decision.accepted:
        return f"**Accepted.** All {len(decision.gates)} gates hold. {beside}."
    lines = [f"**Refused.** {beside}. What does not hold:"]
    lines += [f"- **{TITLES[gate.name]}**: {plain(gate.text)}" for gate in decision.refused]
    return "\n\n".join([lines[0], "\n".join(lines[1:])])


def _gates(decision: Decision) -> str:
    rows = []
    for gate in decision.gates:
        shown, relation = UNITS[gate.name], "≥" if gate.name in AT_LEAST else "≤"
        figure = "–" if gate.figure is None else shown(gate.figure)
        outcome = "pass" if gate.holds else "**refuse**"
        rows.append([TITLES[gate.name], figure, f"{relation} {shown(gate.bound)}", outcome, plain(gate.text)])
    left_out = decision.measured.get("not_measured", ())
    rows += [[TITLES[name], "–", "–", "not measured", "see what refuses"] for name in left_out]
    return table(["gate", "figure", "bound", "outcome", "measured"], rows, "lrrll") + f"\n\n{HOW}"


def _bundles(decision: Decision) -> str:
    sides = _sides(decision)
    sizes = decision.measured.get("size", {})
    loads = decision.measured.get("load", {})

    def row(title: str, tell: Callable[[str, Side], str]) -> list[str]:
        return [title, *(tell(name, side) for name, side in sides.items())]

    rows = [
        row("version", lambda _, side: plain(side.version)),
        row("bundle", lambda _, side: code(side.manifest.bundle_version[:12])),
        row("run", lambda _, side: code(side.manifest.run_id)),
        row(
            "commit",
            lambda _, side: code(side.manifest.git_commit[:12]) if side.manifest.git_commit else "–",
        ),
        row("split", lambda _, side: code(side.manifest.split_hash[:12])),
        row("items × D", lambda _, side: f"{side.manifest.count:,} × {side.manifest.dimension}"),
        row("index", lambda _, side: f"M {side.manifest.index.m}, ef_search {side.manifest.index.ef_search}"),
        row("size", lambda name, _: f"{sizes[name]:,.1f} MiB" if name in sizes else "–"),
        row("load", lambda name, _: f"{loads[name]:.2f} s" if name in loads else "–"),
    ]
    return table(["", *sides], rows, "l" + "l" * len(sides))


def _quality(decision: Decision) -> str:
    measured = decision.measured.get("quality", {})
    if "means" not in measured:
        return plain(measured.get("error", "Not measured."))
    means, differences = measured["means"], measured.get("differences", {})
    manifest = decision.challenger.manifest.quality
    baselines = {name: label for name, label in LABELS.items() if f"{name}_ndcg_at_10" in manifest}
    rows = []
    for metric in dict.fromkeys((measured["metric"], *SHOWN)):
        row = [f"**{spelt(metric)}**" if metric == measured["metric"] else spelt(metric)]
        row += [_with_interval(means[name], metric, measured["intervals"][name]) for name in means]
        if differences:
            each = differences.get(metric)
            row.append(f"{each['mean']:+.4f} ({each['low']:+.4f} to {each['high']:+.4f})" if each else "–")
        row += [_with_interval(manifest, f"{name}_{metric}", manifest) for name in baselines]
        rows.append(row)
    heads = ["metric", *means, *(["difference (95 %)"] if differences else []), *baselines.values()]
    figures_table = table(heads, rows, "l" + "r" * (len(heads) - 1))
    told = f"Means over {measured['queries']:,} test queries, as served, with 95 % intervals."
    if measured["evaluated_anew"]:
        told += f" Evaluated anew on the challenger's data, because {plain(measured['evaluated_anew'])}."
    if baselines:
        told += " Baselines are those of the challenger's own report: "
        told += f"{plain(manifest.get('verdict', ''))}."
    return f"{told}\n\n{figures_table}"


def _with_interval(figures: Mapping[str, Any], name: str, intervals: Mapping[str, Any]) -> str:
    value = figures.get(name)
    if not isinstance(value, float):
        return "–"
    low, high = intervals.get(f"{name}_low"), intervals.get(f"{name}_high")
    reach = f" ({low:.4f} to {high:.4f})" if isinstance(low, float) and isinstance(high, float) else ""
    return f"{value:.4f}{reach}"


def _latency(decision: Decision) -> str:
    measured = decision.measured.get("latency")
    if not measured:
        return "Not measured."
    rows = []
    for what, found in measured.items():
        for percentile in ("p50", "p99"):
            row = [what.replace("_", " "), percentile]
            row += [f"{each[f'{percentile}_us']:,.0f} µs" for each in found["sides"].values()]
            ratio = found.get(f"{percentile}_ratio")
            row += [f"{ratio['median']:.2f} ({ratio['low']:.2f} to {ratio['high']:.2f})"] if ratio else []
            rows.append(row)
    sides = list(_sides(decision))
    heads = ["", "", *sides, *(["ratio (95 %)"] if len(sides) > 1 else [])]
    machine, threads = decision.measured["machine"], decision.measured["threads"]
    budget = f"{threads} thread{'s' if threads != 1 else ''}" if threads else "all threads"
    told = (
        f"One query at a time, {budget}, both bundles in short turns in one process, on "
        f"{plain(machine['processor'])} with {machine['cores']} cores. "
        "Each query counts with the median of five calls; figures are medians over rounds."
    )
    return f"{told}\n\n{table(heads, rows, 'll' + 'r' * (len(heads) - 2))}"


def _sides(decision: Decision) -> dict[str, Side]:
    sides = {"challenger": decision.challenger}
    return sides if decision.champion is None else {**sides, "champion": decision.champion}
