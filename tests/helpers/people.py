"""Problems made of lists: what each person dealt with, from the first item to the last."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from twinspire.protos.features import FeatureSpec, HistoryFeature, IdFeature, Schema, TimeFeature
from twinspire.train.config.towers import TowerConfig
from twinspire.train.data.training_data import Histories, Pairs, TrainingData
from twinspire.train.models.prepared_inputs import PreparedInputs
from twinspire.train.models.tower_factory import architecture_of

People = Sequence[Sequence[int]]


def histories_of(people: People, items: int) -> Histories:
    """A history before each event: query n is the n-th event of all."""
    lengths = np.array([len(each) for each in people], np.int64)
    starts = np.cumsum(lengths) - lengths
    run = np.array([item for each in people for item in each], np.int64)
    return Histories(run, np.repeat(starts, lengths), np.arange(len(run)), ids_of(items))


def ids_of(items: int) -> list[str]:
    return [f"i{n}" for n in range(items)]


def data_of_people(people: People, items: int, exclude_seen: bool = True) -> TrainingData:
    """Each person's last event is for test, the one before for validation, of those with three or more."""
    histories = histories_of(people, items)
    at = np.arange(len(histories.run))
    lengths = np.repeat([len(each) for each in people], [len(each) for each in people])
    left = histories.begin + lengths - at  # 1 at the last event
    part = np.where(lengths < 3, 3, np.minimum(left, 3))
    names = {"test": 1, "validation": 2, "train": 3, "cold": 4}
    parts = {
        name: Pairs(at[part == n], histories.run[part == n], np.ones((part == n).sum(), np.float32))
        for name, n in names.items()
    }
    ids = ids_of(items)
    queries = {"history": histories}
    return TrainingData(queries, {"id": ids}, parts, len(at), items, ids, histories, exclude_seen)


def dated(data: TrainingData) -> TrainingData:
    """The data with times: from one event of a person to the next it takes seconds to months."""
    histories = data.histories
    assert histories is not None
    waits = 2.0 ** np.random.default_rng(0).uniform(0, 23, len(histories.run))
    moments = np.floor(1e9 + np.cumsum(waits))  # query n is asked when event n comes
    histories = replace(histories, times=moments)
    queries = {"history": histories, "time": moments.tolist()}
    return replace(data, queries=queries, histories=histories, moments=moments)


def schema_of_people(items: int, max_length: int = 100, times: bool = False) -> Schema:
    """A history, of which the times may be read, and an id; every item is known, in order."""
    query: dict[str, FeatureSpec] = {"history": HistoryFeature("history", max_length=max_length, times=times)}
    if times:
        query["time"] = TimeFeature("time")
    return Schema(query, {"id": IdFeature("id")}, {"items": tuple(ids_of(items))})


def both_sides(
    schema: Schema, data: TrainingData, config: TowerConfig
) -> tuple[PreparedInputs, PreparedInputs]:
    """Queries and items as the towers of a configuration read them."""
    hashing = architecture_of(config).hashing()
    queries = PreparedInputs(schema, "query", data.queries, hashing)
    return queries, PreparedInputs(schema, "item", data.items, hashing)


def random_people(count: int, items: int, seed: int = 0, longest: int = 12) -> list[list[int]]:
    """People who take items in order, mostly: each is followed by the next, one in four by any."""
    generator = np.random.default_rng(seed)
    people = []
    for _ in range(count):
        left = list(generator.permutation(items))
        taken = [int(left.pop())]
        for _ in range(int(generator.integers(3, longest))):
            following = (taken[-1] + 1) % items
            if generator.random() < 0.25 or following not in left:
                following = int(left[0])
            left.remove(following)
            taken.append(following)
        people.append(taken)
    return people
