"""The page of a bench, in Markdown: the main figures first, then what they rest on."""

from collections.abc import Collection, Mapping
from typing import Any

from export.bench.budgets import shown
from export.bench.machine import BUSY, on_processor
from export.bench.plan import AS_IS, HISTORY, LONG, SHORT
from export.bench.plots import LABELS
from export.markdown import code, picture, plain, table

KINDS = {AS_IS: "real records", SHORT: "20 characters", LONG: "as long as the tower reads"}
HOW = (
    "All backends of a row take short turns in one process, each on inputs that differ from call to call; "
    "the first calls of a turn are not counted. Intervals are of a bootstrap over turns, at 95 %."
)
PART_TITLES = {
    "retriever": "**whole retriever**",
    "session_run": "bare `session.run` on prepared arrays",
    "bare_search": "bare search on prepared vectors",
    "pair": "the two bare parts in one call",
    "prepare": "queries made into arrays",
    "encode": "the retriever's `encode`",
    "nearest": "the retriever's `nearest`",
}

Document = Mapping[str, Any]


def page(document: Document, plots: Collection[str] = ()) -> str:
    """The page.

    Args:
        plots: names of the plots that lie beside it.
    """
    version = code(document["bundle_version"][:12])
    parts = [f"# {plain(document['name'])}: bench of bundle {version}", _broken(document), _where(document)]
    parts += ["## Main figures", _main(document)]
    if document["budgets"]:
        parts += ["## Budgets", _budgets(document)]
    if "towers" in document:
        parts += ["## Towers", HOW, picture("latency.png", "Latency by batch size", plots)]
        parts += [*_towers(document), _skipped(document["towers"])]
    if "retriever" in document:
        parts += ["## Retriever", _retriever(document)]
        parts += [picture("retriever.png", "Where the time of the retriever goes", plots)]
    if "index" in document:
        parts += ["## Index", _index(document), picture("index.png", "Recall and cost of the index", plots)]
    return "\n\n".join(part for part in parts if part) + "\n"


def busy(document: Document) -> str:
    """A warning where others have used the machine meanwhile, else nothing."""
    share = on_processor(document)
    if share >= BUSY:
        return ""
    return (
        f"the machine was busy: what ran on one thread had a processor for {share:.0%} of its time, so long "
        "calls look slower than they are, and no time is told to have changed for sure"
    )


def change(document: Document, name: str) -> str:
    """How a figure has changed since the bench before; an asterisk where the intervals do not meet."""
    previous = document["previous"]
    found = previous and previous["changes"].get(name)
    return f"{found['percent']:+.1f} %{' *' if found['sure'] else ''}" if found else ""


def between(document: Document, name: str) -> str:
    """The interval of a figure, where it has one."""
    ends = document["intervals"].get(name)
    return f"{shown(name, ends[0])} to {shown(name, ends[1])}" if ends else ""


def _broken(document: Document) -> str:
    lines = [f"- {plain(each['text'])}" for each in document["budgets"] if not each["holds"]]
    return "**Over budget.**\n\n" + "\n".join(lines) if lines else ""


def _where(document: Document) -> str:
    machine, versions = document["machine"], document["versions"]
    told = (
        f"On {plain(machine['processor'])} with {machine['cores']} cores, {plain(machine['system'])}; "
        + ", ".join(plain(f"{name} {version}") for name, version in versions.items())
        + f". {plain(document['at'])}. Served: "
        + ", ".join(f"{plain(side)} tower {code(name)}" for side, name in document["chosen"].items())
        + ". "
        + f"Commit of the bundle: {code(document['git_commit'][:12] or '–')}, of the bench: "
        + f"{code(document['measured_by'] or '–')}."
    )
    warning = busy(document)
    return f"{told}\n\n**Beware:** {warning}." if warning else told


def _main(document: Document) -> str:
    previous = document["previous"]
    heads = ["figure", "", "95 %", *(["change"] if previous else [])]
    rows = []
    for name in document["main"]:
        row = [code(name), shown(name, document["metrics"][name]), between(document, name)]
        rows.append([*row, *([change(document, name)] if previous else [])])
    figures_table = table(heads, rows, "lrr" + "r" * bool(previous))
    if not previous:
        return f"{figures_table}\n\nThere is no bench of this name on this machine to compare it with."
    told = (
        f"Changes are against the bench of {plain(previous['at'])}, bundle "
        f"{code(previous['bundle_version'][:12])}, run {code(previous['run_id'])}; an asterisk where the "
        "intervals of both do not meet, which counts for times only if no other process used the machine. "
        "Intervals are of the turns of one bench: two of the same bundle can lie farther apart, so an "
        "asterisk asks for a second bench."
    )
    own, other = document["versions"], previous["versions"] or {}
    moved = [plain(f"{name} was {other[name]}") for name in own if name in other and other[name] != own[name]]
    return f"{figures_table}\n\n{told}" + (f" Meanwhile: {', '.join(moved)}." if moved else "")


def _budgets(document: Document) -> str:
    rows = []
    for each in document["budgets"]:
        figure = "–" if each["figure"] is None else shown(each["name"], each["figure"])
        relation = "≥" if each["at_least"] else "≤"
        bound = f"{relation} {shown(each['name'], each['bound'])}"
        rows.append([code(each["name"]), figure, bound, "holds" if each["holds"] else "**broken**"])
    return table(["figure", "", "budget", ""], rows, "lrrl")


def _towers(document: Document) -> list[str]:
    """A table for each tower and thread budget."""
    groups: dict[tuple[str, int], list[Document]] = {}
    for cell in document["towers"]["cells"]:
        groups.setdefault((cell["side"], cell["threads"]), []).append(cell)
    parts = []
    for (side, threads), cells in groups.items():
        backends = list(cells[0]["backends"])
        heads = ["input", "batch", *(LABELS.get(name, f"ONNX Runtime, {name}") for name in backends), "calls"]
        rows = [
            [
                _kind(cell["kind"]),
                str(cell["batch"]),
                *(_cell(cell["backends"][name]) for name in backends),
                str(min(each["iterations"] for each in cell["backends"].values())),
            ]
            for cell in cells
        ]
        budget = f"{threads} thread{'s' if threads != 1 else ''}" if threads else "all cores"
        parts += [
            f"### {side.capitalize()} tower, {budget}",
            "µs a call, p50 / p95 / p99, and records a second.",
            table(heads, rows, "lr" + "r" * len(backends) + "r"),
        ]
    return parts


def _kind(kind: str) -> str:
    """A kind of input in words."""
    return KINDS.get(kind) or f"histories of {plain(kind.removeprefix(HISTORY))}"


def _cell(told: Document) -> str:
    times = " / ".join(f"{told[f'p{percent}_us']:,.0f}" for percent in (50, 95, 99))
    return f"{times}; {told['records_per_s']:,.0f}/s"


def _skipped(towers: Document) -> str:
    lines = [f"- {plain(name)}: not measured, {plain(reason)}" for name, reason in towers["skipped"].items()]
    lines += [
        f"- torch.compile, {plain(name)}: {took:.1f} s to compile"
        for name, took in towers["compile_s"].items()
    ]
    return "\n".join(lines)


def _retriever(document: Document) -> str:
    found, metrics = document["retriever"], document["metrics"]
    rows = []
    for batch, each in found["batches"].items():
        for name, told in each["parts"].items():
            times = [f"{told[f'p{percent}_us']:,.0f}" for percent in (50, 95, 99)]
            rows.append(
                [
                    batch,
                    PART_TITLES[name],
                    *times,
                    f"{told['cpu_p50_us']:,.0f}",
                    f"{told['queries_per_s']:,.0f}",
                ]
            )
    heads = ["batch", "", "p50, µs", "p95", "p99", "p50 on a processor", "queries/s"]
    told = (
        f"{found['queries']} different queries, k = {found['k']}, {found['search']} search, one thread. "
        "`retriever_share` is the whole over the sum of its two bare parts, each timed by itself, with the "
        "caches to itself; `retriever_pair_share` is over both in one call; `retriever_cpu_share` counts "
        "time on a processor alone, which holds where others use the machine, too."
    )
    shares = [
        [f"`{name}`", shown(name, metrics[name]), between(document, name)]
        for batch in found["batches"]
        for name in (f"retriever{each}_share_b{batch}" for each in ("", "_pair", "_cpu"))
    ]
    loads = f"Loaded {len(found['loads'])} times in a fresh process: {between(document, 'load_s')}."
    tables = [table(heads, rows, "rlrrrrr"), table(["share", "", "95 %"], shares, "lrr")]
    return "\n\n".join([told, *tables, loads])


def _index(document: Document) -> str:
    found, metrics = document["index"], document["metrics"]
    return (
        f"Built over {found['items']:,} of {found['of']:,} vectors, D = {found['dimension']}, on "
        f"{found['threads']} threads, {found['rounds']} times each: {metrics['build_s']:.2f} s, bare hnswlib "
        f"{metrics['build_bare_s']:.2f} s; ratio {metrics['build_over_bare']:.3f} "
        f"({between(document, 'build_over_bare')})."
    )
