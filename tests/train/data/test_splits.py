"""A split is seeded, keeps its shares and never divides a group."""

import hashlib
import json
import random
from collections.abc import Collection
from typing import Any, Literal

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinspire.protos.errors import DataError
from twinspire.protos.inputs.query_words import word_numbers
from twinspire.train.config.data import SplitConfig
from twinspire.train.data.partitions import Partitions
from twinspire.train.data.source import BY_RANKING
from twinspire.train.data.splits import assign
from twinspire.train.data.splits import split_hash as hashing
from twinspire.train.data.splits.assign import LEAST_OTHERS
from twinspire.train.data.splits.known_queries import leave_out_known_queries
from twinspire.train.data.splits.parts import PART, PARTS, SHOWN
from twinspire.train.data.splits.parts import unusual_shares as unusual_shares_of


def assign_parts(pairs: pl.DataFrame, config: SplitConfig) -> pl.DataFrame:
    return assign.assign_parts(Partitions.of(pairs), config).collect()


def unusual_shares(divided: pl.DataFrame, config: SplitConfig) -> list[str]:
    return unusual_shares_of(Partitions.of(divided), config)


def split_hash(pairs: pl.DataFrame, item_ids: pl.Series, query_columns: Collection[str]) -> str:
    typed = Partitions.of(pairs.cast({"part": PART, "item_row": pl.UInt32}))
    return hashing.split_hash(typed, item_ids, query_columns)


def pairs_of(groups: list[str], times: list[float] | None = None) -> pl.DataFrame:
    columns: dict[str, pl.Series] = {
        "query": pl.Series([f"query {n}" for n in range(len(groups))], dtype=pl.String),
        "item_row": pl.Series(range(len(groups)), dtype=pl.UInt32),
        "group": pl.Series(groups, dtype=pl.String),
    }
    if times is not None:
        columns["time"] = pl.Series(times, dtype=pl.Float64)
    return pl.DataFrame(columns)


def many_groups(seed: int = 0) -> pl.DataFrame:
    return pairs_of([str(n) for n in np.random.default_rng(seed).integers(0, 300, 2000)])


def with_repeated_queries(pairs: pl.DataFrame, distinct: int = 500, seed: int = 1) -> pl.DataFrame:
    """The pairs with queries that groups share, written in different ways, and the number of their words."""
    draw = np.random.default_rng(seed)
    forms = ("return name {}", "Return the Name {}.", "name {}: return the", "{} x", "\uff58 {}!")
    texts = [forms[draw.integers(5)].format(n) for n in draw.integers(0, distinct, pairs.height)]
    return pairs.with_columns(query=pl.Series(texts), words=pl.Series(word_numbers(texts)))


def words_by_part(pairs: pl.DataFrame) -> dict[str, set[int]]:
    return {part: set(pairs.filter(pl.col("part") == part)["words"]) for part in PARTS}


def test_parts_have_their_shares() -> None:
    pairs = pairs_of([str(n) for n in np.random.default_rng(0).integers(0, 5_000, 20_000)])
    parts = assign_parts(pairs, SplitConfig(validation=0.05, test=0.1))["part"]
    shares = {part: (parts == part).mean() for part in PARTS}
    assert shares["test"] == pytest.approx(0.1, abs=0.02)
    assert shares["validation"] == pytest.approx(0.05, abs=0.01)


def test_a_log_that_grows_moves_no_group() -> None:
    before = pairs_of([f"g{n}" for n in range(300) for _ in range(3)])
    after = pairs_of([f"g{n}" for n in range(-200, 500) for _ in range(3 + n % 2)])
    parts = [dict(assign_parts(each, SplitConfig())["group", "part"].iter_rows()) for each in (before, after)]
    assert set(parts[0].values()) == set(PARTS)
    assert {group: parts[1][group] for group in parts[0]} == parts[0]


@given(seed=st.integers(0, 99))
def test_few_groups_make_parts_of_about_their_shares(seed: int) -> None:
    pairs = pairs_of([f"g{n}" for n in range(30) for _ in range(5)])
    config = SplitConfig(seed=seed, validation=0.1, test=0.2)
    divided = assign_parts(pairs, config)
    parts = divided["part"].to_list()
    assert 0.05 * 150 <= parts.count("validation") <= 0.15 * 150
    assert 0.1 * 150 <= parts.count("test") <= 0.3 * 150
    assert unusual_shares(divided, config) == []


def test_a_part_that_is_far_from_its_share_is_named() -> None:
    config, by_time = SplitConfig(), SplitConfig(by="time")
    divided = assign_parts(pairs_of([f"g{n}" for n in range(4) for _ in range(5)]), config)
    test, validation = unusual_shares(divided, config)
    assert test == "test holds 25% of the pairs, split.test asks for 10%: groups are few or large"
    assert validation.startswith("validation holds 25% of the pairs")
    days = assign_parts(pairs_of(["g"] * 20, [*range(12), *[50.0] * 8]), by_time)
    assert unusual_shares(days, by_time)[0].endswith("many pairs have the same time")


def test_no_query_is_in_two_parts_of_a_split_by_group() -> None:
    config = SplitConfig()
    divided = assign_parts(with_repeated_queries(many_groups()), config)
    kept, answers, left_out = leave_out_known_queries(divided, config, ["query"], ["query"])
    train, validation, test = (words_by_part(kept)[part] for part in PARTS)
    assert not (train & validation or train & test or validation & test)
    assert kept.filter(pl.col("part") == "test").equals(divided.filter(pl.col("part") == "test"))
    for part in ("train", "validation"):
        counts = [each.filter(pl.col("part") == part).height for each in (divided, kept)]
        assert left_out[part] == counts[0] - counts[1] > 0
    # Nothing else is left out.
    known = words_by_part(divided)
    assert words_by_part(kept)["train"] == known["train"] - known["validation"] - known["test"]
    assert words_by_part(kept)["validation"] == known["validation"] - known["test"]
    # Pairs that are left out are still answers of the query held out.
    assert answers is not None
    of_words = {each: set(of["item_row"]) for (each,), of in divided.group_by("words")}
    held_out = kept.filter(pl.col("part") != "train").unique("query")
    found = {query: set(of["item_row"]) for (query,), of in answers.group_by("query")}
    assert found == {query: of_words[words] for query, words in held_out["query", "words"].iter_rows()}


def test_answers_are_positive_and_of_the_same_query_features() -> None:
    config = SplitConfig()
    pairs = with_repeated_queries(many_groups()).with_columns(
        label=pl.int_range(pl.len()) % 4 - 1, country=pl.int_range(pl.len()) % 3
    )
    divided = assign_parts(pairs, config)
    _, answers, _ = leave_out_known_queries(divided, config, ["query"], ["query", "country"])
    assert answers is not None
    assert set(answers.columns) == {"query", "country", "item_row"}
    found = answers.join(divided.drop("query"), on="item_row", suffix="_own")
    assert found.height == answers.height > 0
    assert (found["label"] > 0).all()
    assert (found["country"] == found["country_own"]).all()


@pytest.mark.parametrize("spare", [0, 1])
def test_what_a_ranking_chose_to_show_is_tested_only_if_there_is_too_little_else(spare: int) -> None:
    pairs = pairs_of([f"g{n}" for n in range(2000)], [float(n) for n in range(2000)])
    place = pl.int_range(pl.len()) % 200  # a part of 200, in the order of time
    marked = pairs.with_columns((place >= LEAST_OTHERS - 1 + spare).alias(BY_RANKING))
    divided = assign_parts(marked, SplitConfig(by="time", validation=0.1, test=0.1))
    counts = dict(divided["part"].value_counts().iter_rows())
    if spare:
        shown = 2 * (200 - LEAST_OTHERS)
        assert counts == {"train": 1600, "validation": LEAST_OTHERS, "test": LEAST_OTHERS, SHOWN: shown}
        assert divided.filter(pl.col("part") == SHOWN)[BY_RANKING].all()
    else:
        assert counts == {"train": 1600, "validation": 200, "test": 200}


def test_what_a_ranking_chose_to_show_answers_no_query_that_is_held_out() -> None:
    pairs = with_repeated_queries(many_groups())
    marked = pairs.with_columns((pl.col("item_row") % 2 == 0).alias(BY_RANKING))
    config = SplitConfig(validation=0.2, test=0.2)
    divided = assign_parts(marked, config)
    shown = {*divided.filter(pl.col("part") == SHOWN)["item_row"]}
    _, answers, _ = leave_out_known_queries(divided, config, ["query"], ["query"])
    assert answers is not None and answers.height and shown
    assert not shown & {*answers["item_row"]}


def test_blank_queries_are_not_equal() -> None:
    config = SplitConfig()
    divided = assign_parts(many_groups().with_columns(query=pl.lit(" ")), config)
    kept, answers, left_out = leave_out_known_queries(divided, config, ["query"], ["query"])
    assert kept.equals(divided)
    assert not left_out
    assert answers is not None
    assert answers.is_empty()


def test_where_queries_repeat_a_split_by_time_keeps_them() -> None:
    config = SplitConfig(by="time")
    timed = many_groups().with_columns(time=pl.int_range(pl.len()).cast(pl.Float64))
    divided = assign_parts(with_repeated_queries(timed), config)
    kept, answers, left_out = leave_out_known_queries(divided, config, ["query"], ["query"])
    assert kept.equals(divided)
    assert not left_out
    assert answers is None


def test_a_log_of_one_query_says_to_split_by_time() -> None:
    config = SplitConfig()
    divided = assign_parts(many_groups().with_columns(query=pl.lit("shoes")), config)
    with pytest.raises(DataError, match=r'after \d+ pairs were left out .* split\.by = "time"'):
        leave_out_known_queries(divided, config, ["query"], ["query"])


@pytest.mark.parametrize(
    ("one", "other", "are_equal"),
    [
        ("Return the name.", "return  the NAME", True),
        ("\uff52\uff45\uff44", "red", True),  # full width
        ("red red shoes", "red shoes", False),
        ("\U0001f600", "\U0001f680", False),
        ("\u590d\u5236\u6587\u4ef6\u3002", "\u590d\u5236\u6587\u4ef6", True),
        ("\u0915\u0940", "\u0915\u093e", False),  # Hindi, which differ in a vowel sign
        ("\u2764\ufe0f", "\u2600\ufe0f", False),  # the variation selector of an emoji is a mark
        ("sort \u2764\ufe0f", "Sort", True),
        ("c++ sort", "c sort", False),
        ("read_csv", "read csv", True),
    ],
)
def test_queries_of_the_same_words_are_equal(one: str, other: str, are_equal: bool) -> None:
    first, second = word_numbers([one, other])
    assert (first == second) == are_equal


def test_the_seed_decides_and_the_order_of_rows_does_not() -> None:
    pairs = many_groups()
    drawn = assign_parts(pairs, SplitConfig(seed=1)).sort("item_row")
    shuffled = pairs.sample(fraction=1.0, shuffle=True, seed=3)
    assert assign_parts(shuffled, SplitConfig(seed=1)).sort("item_row").equals(drawn)
    assert not assign_parts(pairs, SplitConfig(seed=2)).sort("item_row").equals(drawn)


def test_a_group_larger_than_a_part_is_in_training() -> None:
    groups = ["huge"] * 900 + [f"small {n}" for n in range(100)]
    for seed in range(5):
        divided = assign_parts(pairs_of(groups), SplitConfig(seed=seed, validation=0.04, test=0.05))
        assert set(divided.filter(pl.col("group") == "huge")["part"]) == {"train"}


@given(sizes=st.lists(st.integers(1, 20), min_size=3, max_size=40), seed=st.integers(0, 99))
def test_three_groups_are_enough(sizes: list[int], seed: int) -> None:
    groups = [str(n) for n, size in enumerate(sizes) for _ in range(size)]
    divided = assign_parts(pairs_of(groups), SplitConfig(seed=seed))
    assert set(divided["part"]) == set(PARTS)
    assert divided.height == len(groups)


@pytest.mark.parametrize("by", ["group", "time"])
def test_too_few_pairs_are_an_error(by: Literal["group", "time"]) -> None:
    for pairs in (pairs_of(["a", "a"], [1.0, 2.0]), pairs_of([], [])):
        with pytest.raises(DataError, match=r"part of the split is empty: .* split\."):
            assign_parts(pairs, SplitConfig(by=by))


def test_the_latest_pairs_are_test() -> None:
    times = [float(n) for n in np.random.default_rng(0).permutation(100)]
    divided = assign_parts(pairs_of(["g"] * 100, times), SplitConfig(by="time")).sort("time")
    assert divided["part"].to_list() == ["train"] * 85 + ["validation"] * 5 + ["test"] * 10


@given(days=st.lists(st.integers(0, 9), min_size=1, max_size=60))
def test_pairs_at_the_same_time_are_in_the_same_part(days: list[int]) -> None:
    times = [float(each) for each in (*range(-90, 0), *days)]
    divided = assign_parts(pairs_of(["g"] * len(times), times), SplitConfig(by="time"))
    assert divided.group_by("time").agg(pl.col("part").n_unique())["part"].max() == 1
    ordered = divided.sort("time")["part"].to_list()
    assert ordered == sorted(ordered, key=PARTS.index)


def test_the_hash_depends_on_parts_and_pairs_but_not_on_their_order() -> None:
    ids = pl.Series("item_id", [f"item {n}" for n in range(2000)])
    divided = assign_parts(many_groups(), SplitConfig())
    known = split_hash(divided, ids, ["query"])
    assert split_hash(divided.reverse(), ids, ["query"]) == known
    other_part = divided.with_columns(part=pl.lit("train"))
    other_query = divided.with_columns(query=pl.col("query") + "?")
    other_item = divided.with_columns(item_row=pl.col("item_row").reverse())
    for other in (other_part, other_query, other_item):
        assert split_hash(other, ids, ["query"]) != known


def test_the_hash_is_that_of_sorted_lines_of_json_however_few_are_in_memory(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    draw = random.Random(0)
    ids = ["1", "10", 'a"b', "a", "a ", "\u00fc", "\U0001f600", "back\\slash", "line\nend"]
    rows: list[dict[str, Any]] = [
        {
            "part": draw.choice(["train", "test", "validation", "cold"]),
            "item_row": draw.randrange(len(ids)),
            "group": draw.choice(['u"', "u", "\u2028"]),
            "position": draw.randrange(20),
            "price": draw.choice([None, 1.0, 1e30]),
            "tags": draw.choice([[], ["x", 'y"']]),
        }
        for _ in range(300)
    ]
    names = ["group", "position", "price", "tags"]
    lines = [
        json.dumps([row["part"], ids[row["item_row"]], *(row[name] for name in names)], ensure_ascii=False)
        for row in rows
    ]
    known = hashlib.sha256("\n".join(sorted(lines)).encode()).hexdigest()
    for at_once in (1, 7, 1_000):
        monkeypatch.setattr(hashing, "HASHED_AT_ONCE", at_once)
        assert split_hash(pl.DataFrame(rows), pl.Series(ids), names) == known


def test_the_hash_is_the_same_on_every_machine() -> None:
    pairs = pl.DataFrame({"query": ["a", "ü"], "item_row": [1, 0], "part": ["train", "test"]})
    pairs = pairs.with_columns(pl.col("item_row").cast(pl.UInt32))
    known = "545e7d567a3da02c0ff6e5fdf15fded866b159ed12fcd314b57bb1252d82fb17"
    assert split_hash(pairs, pl.Series(["007", "7"]), ["query"]) == known
