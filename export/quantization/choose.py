"""Chooses the variant of each tower.

Variants are tried from the smallest to the largest, and the first one within the bound on the loss is chosen.
Latency does not decide: the variants of a tower differ in its look-ups alone.

The queries and items that variants are compared with float32 on are drawn once from the validation split and
the catalogue. Search is exact, and a variant of one side's tower is evaluated with the other side's float32
vectors, so that a loss is due to the variant alone.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypeVar

import numpy as np
import numpy.typing as npt
import torch

from twinspire.export.encoding.encoding import encode_all
from twinspire.export.encoding.records import rows_of
from twinspire.export.onnx.runtimes import Encode, onnx_encoder
from twinspire.export.quantization.tables import MIN_BYTES, make_variants, round_tables
from twinspire.protos.bundle import TableVariant
from twinspire.protos.errors import ConfigError
from twinspire.protos.features import Side, TowerInputs
from twinspire.train.config.bundle import PrecisionConfig
from twinspire.train.data.training_data import TrainingData
from twinspire.train.evaluation.exact_search import search
from twinspire.train.evaluation.intervals import Clusters, clusters_of, interval
from twinspire.train.metrics import HEADLINE, metric_label, per_query
from twinspire.train.models.towers import Tower
from twinspire.train.progress import PROGRESS

Rows = npt.NDArray[np.int64]
Vectors = npt.NDArray[np.float32]
BothVectors = Mapping[Side, Vectors]  # of the queries (Q, D) and of the items (N, D)
PerQuery = dict[str, npt.NDArray[np.float64]]

K = 10
PLAIN: Literal["fp32"] = "fp32"  # what all others are compared with
NO_TABLES = f"no table of at least {MIN_BYTES // 2**10} KiB is looked up"

Name = TypeVar("Name", bound=str)


@dataclass(frozen=True)
class ExportedTower:
    """A tower in torch and as an ONNX file.

    Args:
        tower: for inference, with the same rounded tables as the file.
        path: the ONNX file.
        variant: of both.
    """

    side: Side
    inputs: TowerInputs
    tower: Tower
    path: Path
    variant: TableVariant = PLAIN


@dataclass(frozen=True)
class ChosenPrecision:
    """What a bundle stores.

    Args:
        towers: in the chosen variants.
        report: `query` and `item`: size and quality of float32 and of what was tried, and the reasons.
    """

    towers: dict[Side, ExportedTower]
    report: dict[str, Any]


@dataclass(frozen=True)
class QualitySample:
    """Queries (Q) and items (N) of a data set.

    Args:
        queries: rows of the queries in the data.
        items: rows of the items, in order.
        relevant: for each query the places in `items` of its relevant items.
        seen: for each query the places in `items` that must not be returned.
        clusters: of the queries.
        seed: of the draws of intervals.
    """

    data: TrainingData
    queries: Rows
    items: Rows
    relevant: list[Rows]
    seen: list[Rows]
    clusters: Clusters
    seed: int

    def encode(self, side: Side, variant: str, inputs: TowerInputs, encode: Encode) -> Vectors:
        """Vectors of the queries (Q, D) or of the items (N, D); progress shows the name of the variant."""
        rows, values = (self.queries, self.data.queries) if side == "query" else (self.items, self.data.items)
        title = f"{'validation queries' if side == 'query' else 'items'}, {variant}"
        return encode_all(encode, inputs, rows_of(values, rows), title)

    def metrics(self, vectors: BothVectors) -> PerQuery:
        """recall@10 and nDCG@10 of each query by exact search: metric -> (Q,)."""
        queries, items = (torch.from_numpy(vectors[side]) for side in ("query", "item"))
        found = per_query(search(queries, items, K, self.seen), self.relevant)
        return {name: found[name] for name in HEADLINE}

    def losses(self, metrics: PerQuery, baseline: PerQuery) -> dict[str, float]:
        """The mean of each metric, and of its difference from a baseline, with a 95 % interval."""
        found: dict[str, float] = {}
        for name in HEADLINE:
            delta = interval(metrics[name], self.clusters, baseline[name], self.seed)
            found |= {
                name: float(metrics[name].mean()),
                f"{name}_delta": delta.mean,
                f"{name}_delta_low": delta.low,
                f"{name}_delta_high": delta.high,
            }
        return found


def draw_sample(data: TrainingData, config: PrecisionConfig) -> QualitySample:
    """Draw queries of the validation split, their relevant items, and other items."""
    random = np.random.default_rng(config.seed)
    queries, relevant = data.parts["validation"].by_query()
    kept = np.sort(random.permutation(len(queries))[: config.queries])
    queries, relevant = queries[kept], [relevant[n] for n in kept]
    items = _draw_items(np.unique(np.concatenate(relevant)), data.item_count, config.items, random)
    places = np.full(data.item_count, -1, np.int64)
    places[items] = np.arange(len(items))
    seen = [found[found >= 0] for found in (places[rows] for rows in data.seen(queries))]
    relevant = [places[rows] for rows in relevant]
    clusters = clusters_of(data, "validation")[kept]
    return QualitySample(data, queries, items, relevant, seen, clusters, config.seed)


def _draw_items(relevant: Rows, count: int, most: int, random: np.random.Generator) -> Rows:
    """All items; if there are more than `most`, the relevant ones and a sample of the others."""
    if count <= most:
        return np.arange(count)
    others = np.setdiff1d(np.arange(count), relevant)
    drawn = random.permutation(others)[: max(0, most - len(relevant))]
    return np.sort(np.concatenate([relevant, drawn]))


def choose_precision(
    towers: Mapping[Side, ExportedTower],
    data: TrainingData,
    config: PrecisionConfig,
    folder: Path,
    all_items: Callable[[Path], Vectors],
) -> ChosenPrecision:
    """Choose the variant of each tower.

    Args:
        towers: in float32.
        data: has the validation queries, and the items to search.
        folder: receives the files of the variants.
        all_items: vectors (N, D) of all items by the item tower in a file. It is called for the variant that
            is tried first, which mostly ships, so a caller that keeps the vectors encodes each item once.

    Raises:
        ConfigError: the configured variant cannot be made of a tower.
    """
    sample = draw_sample(data, config)
    with PROGRESS.status("variants of the towers"):
        files = {side: make_variants(each.path, folder) for side, each in towers.items()}
    likely = next((files["item"][name] for name in _tried(config.item, _sizes(files["item"]))), None)

    def encoded(tower: ExportedTower) -> Vectors:
        if tower.path == likely:
            return np.asarray(all_items(tower.path)[sample.items])
        encode = onnx_encoder(tower.path, threads=0)
        return sample.encode(tower.side, tower.variant, tower.inputs, encode)

    plain: BothVectors = {side: encoded(each) for side, each in towers.items()}
    chosen, vectors, report = dict(towers), plain, dict[str, Any]()
    for side, each in towers.items():
        chosen[side], own, report[side] = _choose_tower(each, files[side], sample, plain, config, encoded)
        vectors = {**vectors, side: own[side]}
    return ChosenPrecision(chosen, report)


def _choose_tower(
    tower: ExportedTower,
    files: Mapping[TableVariant, Path],
    sample: QualitySample,
    plain: BothVectors,
    config: PrecisionConfig,
    encoded: Callable[[ExportedTower], Vectors],
) -> tuple[ExportedTower, BothVectors, dict[str, Any]]:
    """The chosen variant, the sample's vectors with this variant of the tower, and the report.

    Args:
        files: of the variants of the tower, float32 first.
        plain: the sample's vectors by both towers in float32.
        encoded: the sample's vectors by a variant.
    """
    side, setting = tower.side, getattr(config, tower.side)
    if setting not in ("auto", *files):
        raise ConfigError(f"precision.{side}: {setting} cannot be made of this tower: {NO_TABLES}")

    def vectors_of(name: TableVariant) -> BothVectors:
        return {**plain, side: encoded(replace(tower, path=files[name], variant=name))}

    name, vectors, report = first_within(side, config, _sizes(files), plain, vectors_of, sample)
    rounded = round_tables(tower.tower, name)
    return replace(tower, tower=rounded, path=files[name], variant=name), vectors, report


def _sizes(files: Mapping[TableVariant, Path]) -> dict[TableVariant, int]:
    return {name: path.stat().st_size for name, path in files.items()}


def _tried(setting: str, sizes: Mapping[Name, int]) -> list[Name]:
    """The names that a setting of `[precision]` allows, from the smallest on."""
    return [name for name in sorted(sizes, key=sizes.__getitem__) if setting in ("auto", name)]


def first_within(
    key: str,
    config: PrecisionConfig,
    sizes: Mapping[Name, int],
    plain: BothVectors,
    vectors_of: Callable[[Name], BothVectors],
    sample: QualitySample,
) -> tuple[Name, BothVectors, dict[str, Any]]:
    """Try variants from the smallest on, and take the first one within the bound.

    Args:
        key: of `config`: `auto`, or the only variant to try, which is taken whatever it loses.
        sizes: name -> bytes; float32, which loses nothing, comes first.
        plain: the sample's vectors in float32.
        vectors_of: the sample's vectors by a variant.

    Returns:
        the name, its vectors, and the report.
    """
    setting, bound = getattr(config, key), config.max_loss
    baseline, first = sample.metrics(plain), next(iter(sizes))

    def figures(name: Name, metrics: PerQuery) -> dict[str, Any]:
        share = sizes[name] / sizes[first]
        return {"size_bytes": sizes[name], "size_share": share, **sample.losses(metrics, baseline)}

    tried = {first: figures(first, baseline)}
    for name in _tried(setting, sizes):
        vectors = plain if name == first else vectors_of(name)
        if name != first:
            tried[name] = figures(name, sample.metrics(vectors))
        if not _excess_loss(tried[name], bound):
            break
    excess = {each: _excess_loss(found, bound) for each, found in tried.items()}
    report = {
        "chosen": name,
        "why": f"{name}: {_why(key, setting, name == first, len(sizes) == 1, excess[name])}",
        "max_loss": bound,
        "variants": tried,
        "refused": {each: text for each, text in excess.items() if text and each != name},
    }
    return name, vectors, report


def _why(key: str, setting: str, is_plain: bool, is_only: bool, excess: str) -> str:
    """The reason for a variant, in words."""
    if setting != "auto":
        return f"set by precision.{key}" + (f", although {excess}" if excess else "")
    if not is_plain:
        return "the smallest within the bound"
    return NO_TABLES if is_only else "no smaller one is within the bound"


def _excess_loss(figures: Mapping[str, float], bound: float) -> str:
    """The largest loss of a metric in words, if it is above the bound; else empty."""
    worst = min(HEADLINE, key=lambda metric: figures[f"{metric}_delta"])
    loss = -figures[f"{worst}_delta"]
    return f"{metric_label(worst)} falls by {loss:.4f}, more than {bound:g}" if loss > bound else ""
