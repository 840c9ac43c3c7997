"""Names that earlier versions took in an experiment, and what to use instead."""

from collections.abc import Iterator, Mapping
from typing import Any

# (key, value) -> what to do; of a key that was removed itself the value is empty.
REMOVED: Mapping[tuple[str, str], str] = {
    ("tower.kind", "cdssm"): 'use "bag", or "dssm" for a network of the literature',
    ("tower.kind", "lstm"): 'use "bag", or "dssm" for a network of the literature',
    ("tower.kind", "multi_view"): 'use "bag" or "dssm"; the feature of the key view is read as others are',
    ("training.precision", ""): "leave it out: towers are trained in float32",
    ("loss.kind", "hinge"): 'use "bpr"',
    ("loss.correction", "khrylchenko"): 'use "logq", which was at least as good',
    ("loss.label_smoothing", ""): "leave it out: the whole target is the pair's own item",
    ("loss.drop_above", ""): "leave it out: all of the nearest items can be hard negatives",
    ("loss.within", ""): "leave it out: negatives are drawn from all items of the batch",
    ("loss.positive_weight", ""): "leave it out: positive and negative pairs count alike",
    ("loss.focal_gamma", ""): "leave it out: all pairs count alike",
    ("tower.kind", "shared"): 'use "clicks"',
    ("tower.history", "mean"): 'use "sum"',
    ("tower.history", "latent"): 'use "sum", whose learned coordinates start at zero',
    ("tower.similarity", ""): "leave it out: the lengths of item vectors may differ",
    ("tower.gates", ""): "leave it out: attention layers have no gates",
    ("tower.gate", ""): "leave it out: the features of a side count alike",
    ("baselines.run", "vsknn"): 'leave it out, or use "slist"',
    ("precision.query", "int8_dynamic"): 'use "auto", which never took it, or "int8_tables"',
    ("precision.query", "int8_static"): 'use "auto", which never took it, or "int8_tables"',
    ("precision.item", "int8_dynamic"): 'use "auto", which never took it, or "int8_tables"',
    ("precision.item", "int8_static"): 'use "auto", which never took it, or "int8_tables"',
    ("precision.calibration", ""): 'leave it out: only "int8_static" read it, which was removed, too',
    ("tower.id_dropout", ""): "leave it out: the content of new items places them without it",
    ("tower.id_dropout_alpha", ""): 'leave it out: only "id_dropout" read it, which was removed, too',
    ("tower.newcomers", ""): 'leave it out: new items are placed as with "fitted"',
    ("tower.augment", ""): "leave it out: the vectors that it added brought nothing",
    ("tower.augment_query", ""): "leave it out: the vectors that it added brought nothing",
    ("index.latency_budget_us", ""): "leave it out: the smallest width that reaches recall_target is taken",
    ("index.sample", ""): "leave it out: m and ef_construction are not chosen by measurement any more",
    ("index.m", "0"): "leave it out for 32, which is not chosen by measurement any more",
    ("index.ef_construction", "0"): "leave it out for 400, which is not chosen by measurement any more",
    ("bench.fewest", ""): "leave it out: measuring stops by cell_seconds",
    ("bench.compiled", ""): "leave it out: torch.compile is not measured any more",
}
AS_NOW = (  # keys and values of earlier towers that are built alike today
    ("tower.newcomers", "fitted"),
    ("tower.similarity", "inner_product"),
)
# Sections that trained towers are not built from, apart from the kind of a loss.
BESIDE_TOWERS = ("loss", "training", "baselines", "precision", "index", "bench")


class RemovedName(ValueError):
    """An experiment uses what was removed; the text names the key and the replacement."""


def refuse_removed(table: Mapping[str, Any]) -> None:
    """Refuse the table of an experiment that uses a removed name.

    Raises:
        RemovedName: it does.
    """
    for section, keys in table.items():
        for key, value in keys.items() if isinstance(keys, dict) else ():
            for (name, removed), instead in _removed(section, key, value):
                what = f'"{removed}" was' if removed else "was"
                raise RemovedName(f"{name}: {what} removed; {instead}")


def without_removed(table: Mapping[str, Any]) -> dict[str, Any]:
    """The stored experiment of an earlier run, without removed keys that its towers are not built from.

    Such are keys that were off, and those of sections that say how to train, or what to do afterwards.

    Raises:
        RemovedName: the towers or the kind of their loss were removed.
    """
    kept: dict[str, Any] = {}
    for section, keys in table.items():
        kept[section] = keys
        if isinstance(keys, dict):
            kept[section] = {
                key: value
                for key, value in keys.items()
                if key == "kind"
                or not any(_removed(section, key, value))
                or (value and section not in BESIDE_TOWERS and (f"{section}.{key}", value) not in AS_NOW)
            }
    refuse_removed(kept)
    return kept


def _removed(section: str, key: str, value: Any) -> Iterator[tuple[tuple[str, str], str]]:
    """The entries of `REMOVED` for a key and for its values."""
    values = value if isinstance(value, list) else [value]
    for used in ("", *(each for each in values if isinstance(each, str | int) and each != "")):
        entry = (f"{section}.{key}", str(used))
        if entry in REMOVED:
            yield entry, REMOVED[entry]
