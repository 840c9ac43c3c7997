"""Times of a history, the time of a query, and a tower that reads both: all three or none."""

from typing import Any

import pytest

from twinspire.protos.features import FeatureSpec, HistoryFeature, IdFeature, TimeFeature
from twinspire.train.config import Experiment
from twinspire.train.config.history_towers import ComirecTower, HistoryTower, SequenceTower
from twinspire.train.config.towers import TowerConfig
from twinspire.train.data.sources.events import EventsData

DATED: FeatureSpec = HistoryFeature("history", times=True)
TIME: FeatureSpec = TimeFeature("time")
READS = SequenceTower("sequence", ages=True)
NEEDS = (
    r'query\.history\.times: expected false without tower\.kind = "history", or "sequence" with '
    r'tower\.history = "attention" and tower\.ages = true, got true'
)


def made(tower: TowerConfig, **query: FeatureSpec) -> Experiment:
    data = EventsData("events", "log.csv", time="at")
    return Experiment(name="clicks", data=data, query=query, item={"id": IdFeature("id")}, tower=tower)


def test_a_tower_that_reads_ages_has_what_it_needs() -> None:
    assert made(READS, history=DATED, time=TIME).tower.reads_ages
    assert made(READS, seen=DATED, asked=TIME).tower.reads_time  # whatever their names
    assert made(HistoryTower("history"), history=DATED, time=TIME).tower.reads_ages


@pytest.mark.parametrize(
    ("tower", "query", "said"),
    [
        (SequenceTower("sequence", recent_popularity=8), {"history": DATED, "time": TIME}, NEEDS),
        (ComirecTower("comirec"), {"history": DATED}, NEEDS),
        (READS, {"history": DATED}, r'query\.history\.times: needs a feature of kind "time" beside it'),
        (
            READS,
            {"history": HistoryFeature("history"), "time": TIME},
            r"tower\.ages: expected false without a history with times = true",
        ),
        *(
            (
                HistoryTower("history", recent_popularity=0, **keys),
                {"history": HistoryFeature("history"), "time": TIME},
                r"tower\.recent_popularity above 0 or tower\.ages = true",
            )
            for keys in ({"history": "sum"}, {"ages": False})
        ),
    ],
)
def test_one_without_the_others_is_refused(tower: Any, query: dict[str, FeatureSpec], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        made(tower, **query)
