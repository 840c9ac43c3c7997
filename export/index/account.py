"""What was tried, what was chosen, and why: the report of an index, and the sentence that sums it up."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import hnswlib

from export.index.graph import links_size
from export.index.rivals import Rivals
from export.index.sweep import Swept, as_report
from export.index.width import Tuned
from protos.bundle import IndexParameters
from train.config.index import IndexConfig


@dataclass(frozen=True)
class Account:
    """All that the report is made of.

    Args:
        items: N.
        config: what was asked for.
        swept: graphs that were tried on a sample; none where there was nothing to choose.
        first: M and ef_construction as chosen on the sample.
        tuned: the width on all items.
        rivals: exact search and the graph at that width.
        parameters: what became of it.
        build_s: seconds that building the graph over all items took.
    """

    items: int
    config: IndexConfig
    swept: Sequence[Swept]
    first: tuple[int, int]
    tuned: Tuned
    rivals: Rivals
    parameters: IndexParameters
    build_s: float


def report_of(account: Account, graph: hnswlib.Index) -> dict[str, Any]:
    """The report as JSON says it; times are microseconds of a query on one thread, by batch size."""
    config, chosen, rivals = account.config, account.parameters, account.rivals
    return {
        "items": account.items,
        "sample": min(account.items, config.sample) if account.swept else 0,
        "k": config.k,
        "target": config.recall_target,
        "budget_us": config.latency_budget_us,
        "ef_search": chosen.ef_search,
        "reached": account.tuned.reached or chosen.exact,
        "build_s": account.build_s,
        "bytes_per_item": links_size(graph),
        "curve": list(account.tuned.curve),
        "grid": [as_report(each) for each in account.swept],
        "chosen": {"m": chosen.m, "ef_construction": chosen.ef_construction, "exact": chosen.exact},
        "exact_us": {str(size): us for size, us in rivals.exact_us.items()},
        "graph_us": {str(size): us for size, us in rivals.graph_us.items()},
        "why": why(account),
    }


def why(account: Account) -> str:
    """The choice, in a sentence."""
    return "; ".join(filter(None, (_graph(account), _width(account), _exact(account)))) + "."


def _graph(account: Account) -> str:
    chosen, config = account.parameters, account.config
    said = f"M {chosen.m} and ef_construction {chosen.ef_construction}"
    if not account.swept:
        if config.m and config.ef_construction:
            return f"{said} as configured"
        return f"{said}, the least, for a graph that nobody searches"
    tried = f"of {len(account.swept)} tried on {min(account.items, config.sample):,} items"
    if account.first != (chosen.m, chosen.ef_construction):
        first = f"M {account.first[0]} and ef_construction {account.first[1]}"
        return f"{said}, because {first}, the cheapest {tried}, fall short on all items"
    if config.latency_budget_us is not None:
        return f"{said} find most within {config.latency_budget_us:g} us a query, {tried}"
    costs = {(each.m, each.ef_construction): each.expected_us for each in account.swept}
    cost = costs[account.first]
    if cost is None:
        return f"{said} find most {tried}, none of which reaches {config.recall_target}"
    return f"{said} reach {config.recall_target} at least cost {tried} ({cost:,.0f} us a query expected)"


def _width(account: Account) -> str:
    point, config = account.tuned.point, account.config
    if config.search == "exact":
        return ""
    told = f"recall@{config.k} {point['recall']:.4f} at {point['us_per_query']:,.0f} us a query"
    if config.latency_budget_us is None:
        fate = "reaches" if account.tuned.reached else "is the widest tried and does not surely reach"
        return f"ef_search {point['ef']} {fate} {config.recall_target}: {told}"
    fate = "the widest" if point["us_per_query"] <= config.latency_budget_us else "the narrowest, yet not"
    floor = "" if account.tuned.reached else f", not surely the {config.recall_target} that was asked for"
    return f"ef_search {point['ef']} is {fate} within {config.latency_budget_us:g} us: {told}{floor}"


def _exact(account: Account) -> str:
    exact, graph, config = account.rivals.exact_us[1], account.rivals.graph_us[1], account.config
    beside = f"{exact:,.0f} us a query against {graph:,.0f} us through the graph"
    if not account.parameters.exact:
        return f"exact search would take {beside}"
    if config.search == "exact":
        return f"every search is exact, as configured: {beside}"
    if account.rivals.exact_is_no_slower:
        return f"every search is exact, which is no slower: {beside}"
    if config.latency_budget_us is not None and exact <= config.latency_budget_us:
        return f"every search is exact, which is within the budget, too: {beside}"
    if not account.tuned.reached:
        return f"every search is exact, for no graph reaches the target: {beside}"
    return f"every search is exact: one for {config.k} would look at as much of so few items: {beside}"
