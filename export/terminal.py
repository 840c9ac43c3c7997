"""Terminal output of the commands of `python -m twinspire.export`.

What needs torch or matplotlib to be imported is imported where it is used, so that `history` is quick.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Column, Table
from rich.text import Text

from twinspire.protos.cli import show_warnings
from twinspire.protos.features import SIDES
from twinspire.protos.figures import JUDGED, WARNINGS

BENCH_LINES = {  # figure of a bench -> what it is
    "retriever_b1_p50_us": "retriever, one query, p50 in microseconds",
    "retriever_b1_p99_us": "retriever, one query, p99 in microseconds",
    "load_s": "bundle verified, loaded and warm, seconds",
    "start_s": "with the start of the process, seconds",
}


def show_bundle(result: dict[str, Any], console: Console) -> None:
    """Print version, quality, index and parity of a bundle, and a line for each tower."""
    again = ", unchanged" if result["reused"] else ""
    console.print(f"bundle {result['bundle_version'][:12]}{again}: {result['bundle']}", soft_wrap=True)
    show_quality(result["quality"], console)
    show_warnings(result["quality"].get(WARNINGS, ()), console)
    console.print(_hybrid_line(result["hybrid"]), soft_wrap=True)
    console.print(_scores_line(result["scores"]), soft_wrap=True)
    worst = max(side["max_abs_diff"] for side in result["parity"].values())
    line = f"index: {_index_text(result['ann'])}; parity: max_abs_diff {worst:.1e}"
    console.print(line, soft_wrap=True)
    for side in SIDES:
        line = _tower_line(side, result["precision"][side], result["latency"])
        console.print(line, soft_wrap=True)


def _index_text(ann: Mapping[str, Any]) -> str:
    """How the items are searched, and what share of the nearest items a search finds."""
    if ann.get("chosen", {}).get("exact"):
        return "exact search, which compares all items"
    recall = next(name for name in ann if name.startswith("ann_recall"))
    width = f" at ef_search {ann['ef_search']}" if "ef_search" in ann else ""
    return f"{recall} {ann[recall]:.4f}{width} (target {ann['target']})"


def _hybrid_line(report: Mapping[str, Any]) -> str:
    """Whether BM25 and the clicks after the same query take part in the answers, and why."""
    if not report["shipped"]:
        return f"hybrid: no, the towers alone answer: {report['why']}"
    line = f"hybrid: yes, BM25 has a weight of {report['weight']:g}: {report['why']}"
    if report.get("prior_weight"):
        line += f"; clicks after the same query have {report['prior_weight']:g}: {report['prior_why']}"
    return line


def _scores_line(report: Mapping[str, Any]) -> str:
    """Below which best score an answer is weak, what that is for, and how many wrong answers are below."""
    if "weak_score" not in report:
        return f"weak answers: none is marked as such: {report['why']}"
    share = report["weak_of_wrong"]
    wrong = "" if share is None else f"; so it is for {share:.0%} of the wrong answers on validation"
    return (
        f"weak answers: with a best score below {report['weak_score']:.3f} the service marks an answer as "
        f"weak, and a page can say that nothing matches well{wrong}, and seldom for a right answer"
    )


def _tower_line(side: str, report: Mapping[str, Any], latency: Mapping[str, Any]) -> str:
    """Precision, size, recall and latency of a tower; of the item tower also how many items a second."""
    found = report["variants"][report["chosen"]]
    size = f"{found['size_bytes'] / 2**20:.1f} MiB"
    if report["chosen"] != "fp32":
        change = f"recall@10 {found['recall_at_10_delta']:+.4f}"
        size += f" ({found['size_share']:.0%} of fp32, {change})"
    metrics = latency["metrics"]
    batches = (1,) if side == "query" else (32, 8, 1)  # the largest that was timed; of long items few are
    batch = next(each for each in batches if f"{side}_tower_b{each}_p50_us" in metrics)
    ratio = metrics[f"{'' if side == 'query' else 'item_'}torch_over_onnx_b{batch}"]
    p50 = metrics[f"{side}_tower_b{batch}_p50_us"]
    times = f"{p50:,.0f} µs at batch {batch}, torch {ratio:.1f} times as long"
    if side == "item":
        times += f"; {1e6 * batch / p50:,.0f} items/s"
    return f"{side} tower: {report['chosen']}, {size}, {times}"


def show_quality(metrics: dict[str, Any], console: Console) -> None:
    """Print the quality of a bundle beside that of its towers alone and of the baselines."""
    from twinspire.train.terminal import (
        baseline_columns,
        metric_table,
        show_cold_start,
        show_judged,
        show_labels,
        show_query_groups,
    )

    names = {"": "served", **_measured(metrics), **baseline_columns(metrics)}
    show_labels(metrics, console, is_first=True)
    console.print(metric_table(f"test, {int(metrics['queries']):,} queries", metrics, names))
    console.print("by exact search; the report of the index says how much of it a search finds")
    show_query_groups(metrics, names, metrics.get("drawn", ""), console)
    show_cold_start(metrics, console)
    show_labels(metrics, console, is_first=False)
    console.print(metrics["verdict"], soft_wrap=True)
    show_judged(metrics, {"": "served", **_measured(metrics, JUDGED)}, console)
    if "judged_verdict" in metrics:
        console.print(f"judged: {metrics['judged_verdict']}", soft_wrap=True)


def _measured(metrics: Mapping[str, Any], before: str = "") -> dict[str, str]:
    """Prefix -> label of the rankings beside the served one, as far as metrics have them.

    Args:
        before: prefix of all these metrics.
    """
    sides = {"exact_": "towers alone", "lexical_": "BM25 alone", "hybrid_": "hybrid"}
    return {each: label for each, label in sides.items() if f"{before}{each}ndcg_at_10" in metrics}


def show_bench(result: dict[str, Any], console: Console) -> None:
    """Print the latency of the towers, of the retriever and of loading, and what makes them uncertain."""
    from twinspire.protos.system.timing import p99_remark

    figures = result["metrics"]
    budget = f"{result['threads']} thread{'s' if result['threads'] != 1 else ''}"
    table = Table(f"p50, microseconds, {budget}", "as served", "torch eager", "ratio", box=None)
    for side in ("query", "item"):
        torch, ratio = ("", "") if side == "query" else ("item_tower_", "item_")
        for batch in (each for each in (1, 8, 32) if f"{side}_tower_b{each}_p50_us" in figures):
            table.add_row(
                f"{side} tower, batch {batch}",
                f"{figures[f'{side}_tower_b{batch}_p50_us']:,.0f}",
                f"{figures[f'{torch}torch_b{batch}_p50_us']:,.0f}",
                f"{figures[f'{ratio}torch_over_onnx_b{batch}']:.1f}",
            )
    console.print(table)
    machine = result["machine"]
    console.print(f"on {machine['processor']}, {machine['cores']} cores")
    for name, text in BENCH_LINES.items():
        value, (low, high) = figures[name], result["intervals"][name]
        digits = 2 if name.endswith("_s") else 0
        line = f"{text}: {value:,.{digits}f} ({low:,.{digits}f} to {high:,.{digits}f})"
        console.print(line)
    calls = {"query tower": result["towers"]["query"]["1"]["served"]["iterations"]}
    remark = p99_remark(calls | {"retriever": result["retriever"]["queries"]})
    console.print(f"{remark + '; ' if remark else ''}run {result['run_id']}")


def show_registered(result: dict[str, Any], console: Console) -> None:
    """Print a registered version and its alias."""
    again = ", registered before" if result["reused"] else ""
    console.print(f"{result['model']} is {result['alias']}{again}")


def show_record(result: dict[str, Any], console: Console) -> None:
    """Print a record, which the key `move` holds: the gates, the champion, and the champion before."""
    record = result["move"]
    if record is None:
        console.print(f"{result['model']} is champion already")
        return
    if record["gates"]:
        console.print(_gates_table(record["gates"]))
    show_warnings(_warnings_of(record), console)
    before = f"; before: version {record['before']}" if record["before"] else ""
    forced = ", forced" if record["action"] == "force" else ""
    console.print(f"{result['model']} is champion{forced}{before}")


def show_pruned(result: dict[str, Any], console: Console) -> None:
    """Print which collections were dropped, and which are kept for the aliases."""
    word = "would be dropped" if result["dry_run"] else "dropped"
    for each in result["dropped"]:
        console.print(f"{word}: {each}", soft_wrap=True)
    dropped, kept = len(result["dropped"]), len(result["kept"])
    console.print(f"{result['name']}: {dropped} collections {word}, {kept} kept")


def show_history(result: dict[str, Any], console: Console) -> None:
    """Print every record of the audit log, oldest first, and the problems found in it."""
    if result["records"]:
        table = Table("", "when (UTC)", "who", "action", "from", "to", "gates", "why", box=None)
        for record in result["records"]:
            table.add_row(
                str(record["number"]),
                f"{record['at'][:10]} {record['at'][11:19]}",
                Text(record["actor"]),
                record["action"] + _outcome(record),
                record["before"] or "none",
                record["after"],
                _gates_summary(record),
                Text(record["reason"]),
            )
        console.print(table)
    else:
        console.print(f"{result['name']}: the champion was never moved")
    console.print(f"champion: {result['champion'] or 'none'}")
    compared = [each for each in result["records"] if each["gates"] and each["after"] == result["champion"]]
    show_warnings(_warnings_of(compared[-1]) if compared else (), console)
    for text in result["beside"]:
        console.print(f"moved without a record {text}", style="yellow")
    for text in result["problems"]:
        console.print(f"broken: {text}", style="red", soft_wrap=True)


def _outcome(record: dict[str, Any]) -> str:
    if record["outcome"] == "done":
        return ""
    if record["action"] == "refuse":
        return f", {record['outcome']}"
    return f", {record['outcome']}: the alias {'moved' if record['moved'] else 'did not move'}"


def _gates_summary(record: Mapping[str, Any]) -> str:
    """The number of gates that hold, the names of those that do not, and whether there were warnings."""
    gates = record["gates"]
    if not gates:
        return ""
    refused = [gate["name"] for gate in gates if not gate["holds"]]
    held = f"{len(gates) - len(refused)} of {len(gates)}"
    parts = [held, f"not {', '.join(refused)}" if refused else "", "warned" if _warnings_of(record) else ""]
    return "; ".join(filter(None, parts))


def _warnings_of(record: Mapping[str, Any]) -> list[str]:
    """The warnings of the gates of a record, then those of the run that trained the towers."""
    return [*(gate["warning"] for gate in record["gates"] if gate.get("warning")), *record["warnings"]]


def _gates_table(results: Sequence[Mapping[str, Any]]) -> Table:
    """The results of the gates, with units.

    Args:
        results: those of a record of the audit log.
    """
    figure, bound = (Column(name, justify="right") for name in ("figure", "bound"))
    table = Table("gate", figure, bound, "outcome", box=None)
    for each in results:
        held = Text("pass", "green") if each["holds"] else Text("refused", "bold red")
        if each["holds"] and each["figure"] is None:  # there is no champion to compare with, for example
            held = Text("not compared", "dim")
        elif each["holds"] and each.get("warning"):
            held = Text("warned", "yellow")
        table.add_row(each["title"], each["shown_figure"], each["shown_bound"], held)
    return table
