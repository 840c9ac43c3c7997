"""The report on precision as a terminal shows it."""

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from train.plots import spelt

SIDES = ("query", "item")


def show_precision(report: Mapping[str, Any], console: Console) -> None:
    """Every variant of both towers and of the vectors, which was chosen, and why.

    Args:
        report: `query`, `item` and `vectors`, as `choose_tower` and `choose_vectors` give them.
    """
    for side in SIDES:
        _show_tower(side, report[side], console)
    _show_vectors(report["vectors"], console)


def _show_tower(side: str, told: Mapping[str, Any], console: Console) -> None:
    batch = told["batch"]
    table = Table(
        f"{side} tower",
        f"batch {batch}, µs",
        "p95",
        "MiB",
        "of fp32",
        "recall@10",
        "nDCG@10",
        box=None,
    )
    for name, found in told["variants"].items():
        latency = found["latency"][str(batch)]
        table.add_row(
            _marked(name, told["chosen"]),
            f"{latency['p50_us']:,.1f}",
            f"{latency['p95_us']:,.1f}",
            f"{found['size_bytes'] / 2**20:.1f}",
            f"{found['size_share']:.1%}",
            *_quality(name, found),
        )
    console.print(table)
    _reasons(told, console)


def _show_vectors(told: Mapping[str, Any], console: Console) -> None:
    table = Table("vectors", "bytes an item", "of fp32", "recall@10", "nDCG@10", box=None)
    for name, found in told["variants"].items():
        table.add_row(
            _marked(name, told["chosen"]),
            f"{found['bytes_per_item']:,}",
            f"{found['size_share']:.1%}",
            *_quality(name, found),
        )
    console.print(table)
    _reasons(told, console)
    all_of_it = ", ".join(
        f"{spelt(name)} {told['together'][f'{name}_delta']:+.4f} {_between(told['together'], name)}"
        for name in ("recall_at_10", "ndcg_at_10")
    )
    console.print(f"all three together against fp32: {all_of_it}", highlight=False)


def _marked(name: str, chosen: str) -> str:
    return f"[bold]{name}, chosen[/bold]" if name == chosen else name


def _quality(name: str, found: Mapping[str, Any]) -> list[str]:
    """Float32's own figures, of others the differences to them, with their intervals."""
    if name == "fp32":
        return [f"{found[metric]:.4f}" for metric in ("recall_at_10", "ndcg_at_10")]
    return [
        f"{found[f'{metric}_delta']:+.4f} {_between(found, metric)}"
        for metric in ("recall_at_10", "ndcg_at_10")
    ]


def _between(found: Mapping[str, Any], metric: str) -> str:
    return "({:+.3f} to {:+.3f})".format(*(found[f"{metric}_delta_{end}"] for end in ("low", "high")))


def _reasons(told: Mapping[str, Any], console: Console) -> None:
    console.print(told["why"], highlight=False, soft_wrap=True)
    for name, why in told["not_chosen"].items():
        console.print(f"  {name}: {why}", highlight=False, soft_wrap=True)
    for name, why in told.get("not_made", {}).items():
        console.print(f"  {name}: not made, {why}", highlight=False, soft_wrap=True)
    judged = told["judged_on"]
    if judged["items"] < judged["catalogue"]:
        console.print(
            f"  searched among {judged['items']:,} of {judged['catalogue']:,} items: "
            "those that are relevant, and a sample",
            highlight=False,
            soft_wrap=True,
        )
