"""An experiment: one TOML file, read into frozen dataclasses and checked.

    experiment = read_experiment(Path("train/configs/pydocs.toml"))

All stages read the same file. `[data]`, `[split]`, `[query]` and `[item]` describe the data set and its
features, `[filter]` what searches can filter by, `[events]` what recorded events mean, `[judged]` queries
that people have judged; `[tower]`, `[loss]` and `[training]` the model; `[baselines]` what it is compared
with; `[export]`, `[precision]`, `[index]` and `[hybrid]` the bundle; `[gates]` the checks before a promotion;
`[retrain]` how a champion is trained on.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from types import UnionType
from typing import Annotated, Any

from twinspire.protos import names
from twinspire.protos.bundle import HNSW, REMOTE_KINDS
from twinspire.protos.features import (
    SIDES,
    FeatureSpec,
    HistoryFeature,
    IdFeature,
    Schema,
    Side,
    TimeFeature,
)
from twinspire.protos.toml_config import FROM_DATA, KindsIn, read
from twinspire.train.config.baselines import BaselinesConfig
from twinspire.train.config.bundle import ExportConfig, HybridConfig, PrecisionConfig
from twinspire.train.config.data import (
    DataConfig,
    FilterConfig,
    JudgedConfig,
    RecordedEventsConfig,
    SplitConfig,
)
from twinspire.train.config.gates import GatesConfig
from twinspire.train.config.history_towers import ComirecTower
from twinspire.train.config.index import IndexConfig
from twinspire.train.config.losses import LossConfig
from twinspire.train.config.towers import TowerConfig
from twinspire.train.config.training import RetrainConfig, TrainingConfig

SOURCES = KindsIn("twinspire.train.data.sources")


@dataclass(frozen=True)
class Experiment:
    """The content of an experiment's TOML file.

    Args:
        name: of the MLflow experiment and of the registered model.
        data: the data set; `kind` names a module of `train/data/sources/`.
        query: feature name -> feature of the query tower, of any kind but `id`.
        item: feature name -> feature of the item tower, of any kind but `history`, `negative_history` and
            `time`.
        tower: the architecture of both towers.
        loss: what training minimises; where it is not set, the usual loss of the tower's kind.
        judged: queries that people have judged, on which every model is evaluated, too.
        examples: sample queries, feature name -> value; the demo sends the first five.
    """

    name: str
    data: Annotated[DataConfig, SOURCES]
    query: dict[str, FeatureSpec]
    item: dict[str, FeatureSpec]
    tower: TowerConfig
    loss: LossConfig = FROM_DATA
    split: SplitConfig = field(default_factory=SplitConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)
    baselines: BaselinesConfig = field(default_factory=BaselinesConfig)
    filter: FilterConfig = field(default_factory=FilterConfig)
    events: RecordedEventsConfig = field(default_factory=RecordedEventsConfig)
    judged: JudgedConfig | None = None
    export: ExportConfig = field(default_factory=ExportConfig)
    index: IndexConfig = field(default_factory=IndexConfig)
    hybrid: HybridConfig = field(default_factory=HybridConfig)
    gates: GatesConfig = field(default_factory=GatesConfig)
    retrain: RetrainConfig = field(default_factory=RetrainConfig)
    precision: PrecisionConfig = field(default_factory=PrecisionConfig)
    examples: tuple[dict[str, Any], ...] = ()

    def __post_init__(self) -> None:
        try:
            names.model_name(self.name)
        except ValueError as error:
            raise ValueError(f"name: {error}") from None
        if self.loss is FROM_DATA:
            object.__setattr__(self, "loss", self.tower.usual_loss)
        for side in SIDES:
            object.__setattr__(self, side, self.tower.with_inputs(side, getattr(self, side)))
        _check_features(self.query, self.item)
        _refuse_target_columns(self)
        _check_time(self.query, self.tower)
        self.tower.check_features(self.query, self.item)
        _check_negative_history(self.query, self.split)
        if isinstance(self.tower, ComirecTower):
            _check_several_vectors(self.index, self.hybrid)
        if self.index.kind in REMOTE_KINDS and self.hybrid.enabled is True:
            raise ValueError(
                f'hybrid.enabled: expected "auto" or false with index.kind = "{self.index.kind}", got true'
            )
        if self.training.selection == "log_loss" and not self.tower.predicts_probability:
            raise ValueError(
                'training.selection: "log_loss" needs towers that predict a probability: '
                'tower.kind = "clicks"'
            )
        if self.training.refit:
            _check_refit(self)
        for n, example in enumerate(self.examples):
            unknown = set(example) - set(self.query)
            if unknown or not example:
                raise ValueError(f"examples[{n}]: expected values of {sorted(self.query)}, got {example}")

    def with_features(self, schema: Schema) -> "Experiment":
        """The experiment with the features of trained towers, in which every key is set."""
        return replace(self, query=schema.query, item=schema.item)


def _check_refit(experiment: Experiment) -> None:
    """Refuse `refit` where validation is still needed afterwards, or where training on it would reveal
    answers of test.
    """
    if experiment.split.by == "random":
        raise ValueError(
            'training.refit: with split.by = "random" a user\'s queries of validation and of test have one'
            " history, so the towers would learn to answer those of test by the items of validation; set it"
            " to false"
        )
    if experiment.tower.predicts_probability:
        raise ValueError(
            "training.refit: these towers predict a probability that is calibrated on validation, which they"
            " must not have learned; set it to false"
        )


def _check_features(query: dict[str, FeatureSpec], item: dict[str, FeatureSpec]) -> None:
    """Refuse a side without input features, and features that belong to the other side."""
    for side, features in (("query", query), ("item", item)):
        if not features:
            raise ValueError(f"{side}: expected at least one feature")
    foreign_kinds: tuple[tuple[Side, dict[str, FeatureSpec], type | UnionType], ...] = (
        ("query", query, IdFeature),
        ("item", item, HistoryFeature | TimeFeature),
    )
    for side, features, foreign in foreign_kinds:
        for name, spec in features.items():
            if isinstance(spec, foreign):
                raise ValueError(f'{side}.{name}: a feature of kind "{spec.kind}" belongs to the other side')
    for kind, what in (("history", "history"), ("negative_history", "negative history")):
        if sum(spec.kind == kind for spec in query.values()) > 1:
            raise ValueError(f"query: expected at most one {what}")
    if sum(isinstance(spec, IdFeature) for spec in item.values()) > 1:
        raise ValueError("item: expected at most one id")


def _refuse_target_columns(experiment: Experiment) -> None:
    """Refuse a feature that reads what is predicted: the label, or of a query the item."""
    for side in SIDES:
        targets = experiment.data.target_columns(side)
        for name, spec in getattr(experiment, side).items():
            read = getattr(spec, "column", "")  # a history and a time have none
            if read in targets:
                raise ValueError(
                    f'{side}.{name}: reads column "{read}", which {targets[read]} names: that is what the '
                    "towers predict, and nobody knows it when a query is asked; leave the feature out"
                )


def _check_time(query: dict[str, FeatureSpec], tower: TowerConfig) -> None:
    """Refuse several times of a query, and times of it or of a history that the query tower cannot read."""
    times = [name for name, spec in query.items() if isinstance(spec, TimeFeature)]
    if len(times) > 1:
        raise ValueError("query: expected at most one time")
    if times and len(query) == 1:
        raise ValueError(f"query.{times[0]}: a time alone is no query; expected another feature beside it")
    if times and not tower.reads_time:
        raise ValueError(
            f'query.{times[0]}: a feature of kind "time" needs tower.kind = "history", or "sequence", '
            "with tower.recent_popularity above 0 or tower.ages = true"
        )
    for name, spec in query.items():
        if not (isinstance(spec, HistoryFeature) and spec.times):
            continue
        if not tower.reads_ages:
            raise ValueError(
                f'query.{name}.times: expected false without tower.kind = "history", or "sequence" with '
                'tower.history = "attention" and tower.ages = true, got true'
            )
        if not times:
            raise ValueError(
                f'query.{name}.times: needs a feature of kind "time" beside it, such as [query.time] '
                'kind = "time"'
            )


def _check_negative_history(query: dict[str, FeatureSpec], split: SplitConfig) -> None:
    """Refuse a split in which a history and a negative history of a record end at different moments."""
    for name, spec in query.items():
        if spec.kind == "negative_history" and split.by == "random":
            raise ValueError(
                f"query.{name}: a negative history needs a split in the order of events, and that by "
                '"random" has none; by = "time", "last" or "last_session" has one'
            )


def _check_several_vectors(index: IndexConfig, hybrid: HybridConfig) -> None:
    """Refuse settings that assume one vector for each query."""
    if index.kind != HNSW:
        raise ValueError(
            f'index.kind: expected "{HNSW}" with [tower] kind "comirec", whose queries are several vectors, '
            f'got "{index.kind}"'
        )
    if hybrid.enabled is True:
        raise ValueError('hybrid.enabled: expected "auto" or false with [tower] kind "comirec", got true')


def read_experiment(path: Path) -> Experiment:
    """Read the experiment that a TOML file describes; some kinds of data know what it may leave out.

    Raises:
        ConfigError: the file is missing, is not TOML, or does not fit; the text names file and key.
    """
    experiment = read(path, Experiment, _complete)
    return replace(experiment, tower=experiment.tower.in_folder(path.parent.absolute()))


def _complete(table: dict[str, Any]) -> dict[str, Any]:
    """The table, with the sections that it lacks and its kind of data knows.

    A loss belongs to the tower that the kind of data knows: a `[tower]` of the table keeps its usual loss.
    """
    data = table.get("data")
    kind = data.get("kind") if isinstance(data, dict) else None
    if kind not in SOURCES.kinds():
        return table  # `read` refuses the kind
    schema: type[DataConfig] = SOURCES.schema(kind)
    own = {"tower", "loss"} if "tower" in table else set()
    return {**{name: each for name, each in schema.sections.items() if name not in own}, **table}
