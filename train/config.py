"""An experiment: one TOML file, read once, checked whole, frozen.

    experiment = read_experiment(Path("train/configs/pydocs.toml"))

Every stage reads the same file and takes its own section: `[data] [split] [query] [item]` say what is
learned from, `[tower] [loss] [training]` how, `[export] [index]` what becomes of it.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from protos import config
from protos.features import FeatureSpec, TextFeature


def _at_least(least: float, section: Any, *names: str) -> None:
    """Refuse keys of a section that are below a bound."""
    for name in names:
        value = getattr(section, name)
        if not value >= least:
            raise ValueError(f"{name}: expected at least {least:g}, got {value}")


def _above_zero(section: Any, *names: str) -> None:
    """Refuse keys of a section that are not above 0."""
    for name in names:
        value = getattr(section, name)
        if not 0 < value < float("inf"):
            raise ValueError(f"{name}: expected a number above 0, got {value}")


@dataclass(frozen=True)
class PydocsData:
    """Docstrings of the installed packages and of the standard library.

    Args:
        max_items: keep a seeded sample of whole groups with about this many items; 0 keeps all.
    """

    kind: Literal["pydocs"]
    max_items: int = 0

    def __post_init__(self) -> None:
        _at_least(0, self, "max_items")


@dataclass(frozen=True)
class DebianData:
    """Package descriptions of the Debian archive, read through apt.

    Args:
        max_items: keep a seeded sample of whole groups with about this many items; 0 keeps all.
    """

    kind: Literal["debian"]
    max_items: int = 0

    def __post_init__(self) -> None:
        _at_least(0, self, "max_items")


@dataclass(frozen=True)
class FilesData:
    """Tables of the user's own: CSV, TSV, JSONL or Parquet, told apart by their ending.

    Paths are relative to the TOML file. Columns that a feature reads are named in the feature.

    Args:
        items: the table of items.
        pairs: the table of (query, item) pairs.
        item_id: the items table's column of unique ids.
        pair_item_id: the pairs table's column of item ids; the name of `item_id` if empty.
        display: columns of the items table that an answer shows beside an id.
        label: column of the pairs table; a pair whose label is not above 0 is no positive.
        weight: column of the pairs table; a pair counts this much in the loss.
        group: column of the pairs table; a group is never torn apart by the split.
        time: column of the pairs table, numbers or ISO dates; needed for a split by time.
        max_items: keep a seeded sample of whole groups with about this many items; 0 keeps all.
    """

    kind: Literal["files"]
    items: str
    pairs: str
    item_id: str = "item_id"
    pair_item_id: str = ""
    display: tuple[str, ...] = ()
    label: str = ""
    weight: str = ""
    group: str = ""
    time: str = ""
    max_items: int = 0

    def __post_init__(self) -> None:
        _at_least(0, self, "max_items")


@dataclass(frozen=True)
class SplitConfig:
    """Which pairs are learned from, which choose the best epoch, which are looked at once.

    Args:
        by: `group` draws whole groups at random; `time` takes the latest pairs for test, those before
            them for validation.
        validation: share of the pairs.
        test: share of the pairs.
        seed: of the draw.
    """

    by: Literal["group", "time"] = "group"
    validation: float = 0.05
    test: float = 0.10
    seed: int = 0

    def __post_init__(self) -> None:
        _at_least(0, self, "seed")
        if self.validation <= 0 or self.test <= 0 or self.validation + self.test >= 1:
            raise ValueError(
                f"validation: shares must be above 0 and leave something to train on, "
                f"got validation = {self.validation}, test = {self.test}"
            )


@dataclass(frozen=True)
class BagTower:
    """Hashed words and character n-grams with learned weights; the default for text.

    It starts as TF-IDF brought down to D dimensions, and its residual part at zero, so learning only adds
    to that.

    Args:
        dimension: D, of the vectors.
        latent: of these, how many start as latent semantic analysis of the items (Deerwester et al. 1990);
            the others start as a random projection of what that leaves over.
        orders: lengths of the character n-grams, `#` at word boundaries included.
        words: whole words are hashed too.
        buckets: rows of the hashed table.
        query_hidden: width of the query tower's residual multilayer part; 0 leaves it out.
        item_hidden: the same for the item tower, which runs once an item and can afford more.
    """

    kind: Literal["bag"]
    dimension: int = 512
    latent: int = 128
    orders: tuple[int, ...] = (3,)
    words: bool = True
    buckets: int = 65_536
    query_hidden: int = 0
    item_hidden: int = 1024

    def __post_init__(self) -> None:
        _at_least(1, self, "dimension")
        _at_least(2, self, "buckets")
        _at_least(0, self, "query_hidden", "item_hidden")
        if not 0 <= self.latent <= self.dimension:
            raise ValueError(f"latent: expected 0 to dimension = {self.dimension}, got {self.latent}")
        if min(self.orders, default=1) < 1 or not (self.orders or self.words):
            raise ValueError(f"orders: expected lengths of at least 1, got {list(self.orders)}")


@dataclass(frozen=True)
class DssmTower:
    """Huang et al. 2013, section 3: letter-trigram counts, two tanh layers and a tanh output layer.

    Args:
        dimension: D, of the vectors; the paper's is 128.
        orders: lengths of the letter n-grams; the paper's is 3.
        buckets: rows of the hashed table; the paper counts 30,621 distinct trigrams.
        hidden: widths of the layers before the last.
    """

    kind: Literal["dssm"]
    dimension: int = 128
    orders: tuple[int, ...] = (3,)
    buckets: int = 32_768
    hidden: tuple[int, ...] = (300, 300)

    def __post_init__(self) -> None:
        _at_least(1, self, "dimension")
        _at_least(2, self, "buckets")
        for name in ("orders", "hidden"):
            sizes = getattr(self, name)
            if not sizes or min(sizes) < 1:
                raise ValueError(f"{name}: expected at least one number, each at least 1, got {list(sizes)}")


@dataclass(frozen=True)
class InBatchSoftmax:
    """Softmax over the items of the batch, repeated positives masked.

    Args:
        temperature: divides the cosines.
        hard_negatives: mined negatives added for each query; 0 for none.
        mine_from: negatives are drawn from this many nearest items.
    """

    kind: Literal["in_batch_softmax"]
    temperature: float = 0.05
    hard_negatives: int = 0
    mine_from: int = 40

    def __post_init__(self) -> None:
        _above_zero(self, "temperature")
        _at_least(0, self, "hard_negatives")
        _at_least(max(1, self.hard_negatives), self, "mine_from")


@dataclass(frozen=True)
class SampledSoftmax:
    """Huang et al. 2013, equation 3: one positive and a few random negatives, smoothed by gamma."""

    kind: Literal["sampled_softmax"]
    gamma: float = 10.0
    negatives: int = 4

    def __post_init__(self) -> None:
        _above_zero(self, "gamma")
        _at_least(1, self, "negatives")


@dataclass(frozen=True)
class TrainingConfig:
    """The loop.

    Args:
        epochs: at most this many.
        patience: stop after this many epochs in a row without a better recall@10 on validation.
        batch_size: pairs a step.
        learning_rate: of Adam, after a linear warm-up, decaying to zero along a cosine.
        seed: of everything random.
        threads: torch's thread budget; 0 takes all cores.
    """

    epochs: int = 5
    patience: int = 2
    batch_size: int = 1024
    learning_rate: float = 1e-3
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        _at_least(0, self, "epochs", "seed", "threads")
        _at_least(1, self, "patience")
        _at_least(2, self, "batch_size")
        _above_zero(self, "learning_rate")


@dataclass(frozen=True)
class ExportConfig:
    """Towers to ONNX.

    Args:
        parity_tolerance: the largest difference of torch and ONNX Runtime in any coordinate.
        threads: intra-op threads of ONNX Runtime and torch in the benchmark.
        iterations: timed calls of each backend at each batch size.
    """

    parity_tolerance: float = 1e-5
    threads: int = 1
    iterations: int = 300

    def __post_init__(self) -> None:
        _above_zero(self, "parity_tolerance")
        _at_least(0, self, "threads")
        _at_least(1, self, "iterations")


@dataclass(frozen=True)
class IndexConfig:
    """HNSW (Malkov and Yashunin 2018).

    Args:
        m: links of a node.
        ef_construction: width of the search while building.
        recall_target: ef_search is the smallest that reaches this recall@k against exact search.
        k: at which recall is measured.
        seed: of the level draw.
        threads: of the build; 1 makes it reproducible byte for byte, 0 takes all cores.
    """

    m: int = 16
    ef_construction: int = 200
    recall_target: float = 0.98
    k: int = 10
    seed: int = 0
    threads: int = 0

    def __post_init__(self) -> None:
        _at_least(2, self, "m")
        _at_least(1, self, "ef_construction", "k")
        _at_least(0, self, "seed", "threads")
        _above_zero(self, "recall_target")


@dataclass(frozen=True)
class Experiment:
    """One experiment's TOML.

    Args:
        name: of the MLflow experiment and of the registered model.
        examples: queries to show, feature name -> value; the demo asks the first five.
    """

    name: str
    data: PydocsData | DebianData | FilesData
    query: dict[str, FeatureSpec]
    item: dict[str, FeatureSpec]
    tower: BagTower | DssmTower
    loss: InBatchSoftmax | SampledSoftmax
    split: SplitConfig = field(default_factory=SplitConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    export: ExportConfig = field(default_factory=ExportConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    examples: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]*", self.name):
            raise ValueError(f"name: expected letters, digits, '.', '_' and '-', got {self.name!r}")
        for side in ("query", "item"):
            if not any(isinstance(spec, TextFeature) for spec in getattr(self, side).values()):
                raise ValueError(f'{side}: expected at least one feature of kind "text"')
        for n, example in enumerate(self.examples):
            if set(example) != set(self.query):
                raise ValueError(f"examples[{n}]: expected a value for each of {sorted(self.query)}")


def read_experiment(path: Path) -> Experiment:
    """The experiment that a TOML file describes.

    Raises:
        ConfigError: the file is missing, is not TOML, or does not fit; the text names file and key.
    """
    return config.read(path, Experiment)
