"""The page of a scale report, in Markdown: what was measured, then what follows from it."""

from collections.abc import Mapping, Sequence
from typing import Any

from export.markdown import code, plain, table
from export.scale import verdict
from export.scale.capacity import at_target
from export.scale.fits import PowerLaw, power_law
from export.scale.measuring.documents import ITEMS_A_TOPIC
from export.scale.measuring.subject import DIMENSION, SAMPLE, TOWER
from export.scale.wording import milliseconds, size

BUSY = 0.95  # share of its time on a processor; below it others have used the machine

Document = Mapping[str, Any]


def page(document: Document, plot: str) -> str:
    """The page.

    Args:
        plot: name of the plot that lies beside it.
    """
    parts = ["# What one machine holds", _where(document), _how(document)]
    parts += ["## Making and loading", _made(document["sizes"]), _made_notes(document["sizes"])]
    parts += ["## Asking", _asked(document["sizes"]), _asked_notes(document["sizes"])]
    parts += [f"![Time and memory by number of items]({plot})"]
    parts += ["## Growth", _growth(document["sizes"])]
    parts += ["## Without a graph", _vectors(document)]
    parts += verdict.parts(document)
    return "\n\n".join(part for part in parts if part) + "\n"


def busy(document: Document) -> str:
    """A warning where others have used the machine meanwhile, else nothing."""
    lowest = min(
        each["search"][way]["on_processor"]
        for each in document["sizes"]
        for way in ("graph", "exact", "graph_batch", "exact_batch")
    )
    if lowest >= BUSY:
        return ""
    return (
        f"the machine was busy: what ran on one thread had a processor for {lowest:.0%} of its time, so what "
        "takes long looks slower than it is"
    )


def _where(document: Document) -> str:
    machine, versions = document["machine"], document["versions"]
    told = (
        f"{plain(machine['processor'])}, {machine['cores']} cores, "
        f"{size(machine['memory_bytes'])} of memory, {plain(machine['system'])}; "
        + ", ".join(plain(f"{name} {version}") for name, version in versions.items())
        + f". {plain(document['at'])}, commit {code(_commit(document))}, seed {document['seed']}. "
        "`make scale` writes this page."
    )
    warning = busy(document)
    return f"{told}\n\n**Beware:** {warning}." if warning else told


def _commit(document: Document) -> str:
    commit, plus, changes = document["measured_by"].partition("+")
    return f"{commit[:12]}{plus}{changes}" or "–"


def _how(document: Document) -> str:
    first = document["sizes"][0]
    encode, build, search = first["encode"], first["build"], first["search"]
    return (
        f"Items are made-up documents of about {encode['characters']:.0f} characters, such as "
        f"“{plain(encode['example'])}”, one topic for every {ITEMS_A_TOPIC} of them, topics as unequal in "
        "size as words are in use. Queries are other documents of the same topics. Both go through `bag` "
        f"towers with D = {DIMENSION} (the rest as by default, {TOWER.buckets:,} buckets) at their start, "
        f"IDF and latent directions taken from up to {SAMPLE:,} documents. They have not been trained, on "
        "which their speed does not depend. "
        f"HNSW has M {build['m']} and ef_construction {build['ef_construction']}; ef_search is chosen for "
        f"recall@{search['k']} ≥ {search['target']} on half of the queries, and recall and times are of the "
        f"other {search['queries']:,}, each asked {search['graph']['passes']} times; the median counts. "
        "Every step of every size is a process of its own."
    )


def _made(sizes: Sequence[Document]) -> str:
    heads = ["items", "encode, items/s", "peak", "build, s", "peak", "graph, file", "load, s", "RSS", "PSS"]
    rows = [
        [
            f"{each['items']:,}",
            f"{each['encode']['items_per_s']:,.0f}",
            _size(each["encode"]["peak_bytes"]),
            f"{each['build']['seconds']:,.1f}",
            _size(each["build"]["peak_bytes"]),
            _size(each["build"]["file_bytes"]),
            f"{each['load']['seconds']:.2f}",
            _size(each["load"]["rss_bytes"]),
            _size(each["load"]["pss_bytes"]),
        ]
        for each in sizes
    ]
    return table(heads, rows, "r" * len(heads))


def _made_notes(sizes: Sequence[Document]) -> str:
    first, last = sizes[0], sizes[-1]
    return (
        f"Encoding and building take all cores ({last['build']['threads']}). Peaks are of the whole process; "
        "one that encodes has torch and MLflow in it, which are most of the "
        f"{_size(first['encode']['peak_bytes'])} at {first['items']:,} items, and one that builds holds "
        f"{_size(last['build']['before_bytes'])} before it begins, and the vectors that it has read. Load is "
        f"the median of {len(last['load']['loads'])} fresh processes that verify a bundle, load it "
        "and answer its first examples; RSS and PSS are what they hold then, "
        f"{_size(last['load']['before_bytes'])} of it before they begin. The vectors' file is mapped, and "
        f"counts only once exact search has read it: {DIMENSION * 4} bytes an item more."
    )


def _asked(sizes: Sequence[Document]) -> str:
    heads = ["items", "ef", "recall@10", "p50, ms", "p99, ms", "queries/s, 32 at a time"]
    heads += ["exact: p50, ms", "p99, ms", "queries/s, 32 at a time"]
    rows = []
    for each in sizes:
        search = each["search"]
        graph = _times(search, "graph") if at_target(each) else ["not reached"] * 3
        recall = f"{search['recall']:.4f}"
        rows.append(
            [f"{each['items']:,}", str(search["ef_search"]), recall, *graph, *_times(search, "exact")]
        )
    return table(heads, rows, "r" * len(heads))


def _times(search: Document, way: str) -> list[str]:
    one, batch = search[way], search[f"{way}_batch"]
    return [
        milliseconds(one["p50_us"]),
        milliseconds(one["p99_us"]),
        f"{batch['queries_per_s']:,.0f}",
    ]


def _asked_notes(sizes: Sequence[Document]) -> str:
    fewer = [each for each in sizes if each["search"]["exact"]["calls"] < each["search"]["queries"]]
    told = "One thread; search alone, without the query tower."
    for each in fewer:
        search = each["search"]
        told += f" Exact search over {each['items']:,} items was timed on {search['exact']['calls']} queries."
    for each in sizes:
        search = each["search"]
        if not at_target(each):
            told += (
                f" At {each['items']:,} items recall {search['target']} is **not reached**: it is "
                f"{search['recall']:.4f} with ef_search {search['ef_search']}, so there is no time to give."
            )
    return told


def _growth(sizes: Sequence[Document]) -> str:
    """Exponents of what was measured."""
    counts = [each["items"] for each in sizes]
    reached = [each for each in sizes if at_target(each)]
    laws = {
        "building the graph, all cores": power_law(counts, [each["build"]["seconds"] for each in sizes]),
        "a query through the graph, p50": power_law(
            [each["items"] for each in reached], [each["search"]["graph"]["p50_us"] for each in reached]
        ),
        "a query by exact search, p50": power_law(
            counts, [each["search"]["exact"]["p50_us"] for each in sizes]
        ),
        "the graph's file": power_law(counts, [each["build"]["file_bytes"] for each in sizes]),
    }
    known = {name: law for name, law in laws.items() if law is not None}
    if not known:
        return "One size says nothing of growth."
    rows = [[name, f"N^{law.exponent:.2f}", f"{_tenfold(law):.1f} times"] for name, law in known.items()]
    return f"Least squares in logarithms, over {len(sizes)} sizes.\n\n" + table(
        ["", "grows as", "ten times the items"], rows, "lrr"
    )


def _tenfold(law: PowerLaw) -> float:
    return float(10**law.exponent)


def _vectors(document: Document) -> str:
    vectors = document["vectors"]
    if vectors is None:
        return f"Vectors alone were not measured: {plain(document['left_out'])}."
    found = vectors["exact"]
    rows = []
    for threads, name in ((1, "one_thread"), (found["threads"], "all_threads")):
        if f"{name}_b1" in found:
            one, batch = found[f"{name}_b1"], found[f"{name}_b32"]
            each = milliseconds(batch["p50_us"] / batch["batch"])
            rows.append([str(threads), milliseconds(one["p50_us"]), each])
    heads = ["threads", "one query, p50, ms", "a query among 32, ms"]
    return (
        f"{vectors['items']:,} clustered vectors, D = {found['dimension']}, as int8 rows with a scale each, "
        f"mapped from a file of {size(vectors['vectors']['file_bytes'])}, and compared with every query in "
        "blocks.\n\n"
        + table(heads, rows, "rrr")
        + f"\n\nThe process holds {size(found['rss_bytes'])} then, file and all, and "
        f"{size(found['before_bytes'])} before its first query. recall@{found['k']} against float32 is "
        f"{found['recall']:.4f} ({found['queries']} queries)."
    )


def _size(bytes_: float | None) -> str:
    return "–" if bytes_ is None else size(bytes_)
