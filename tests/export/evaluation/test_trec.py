"""Run files that other tools read: their figures are those of the report, to the last digits."""

from dataclasses import replace
from pathlib import Path

import ir_measures
import numpy as np
import numpy.typing as npt
import pytest
from ir_measures import RR, R, nDCG

from tests.helpers.limited import files_limited_to
from twinspire.export.evaluation.trec import Topics, check_output, judged_topics, split_topics, write_runs
from twinspire.protos.errors import DataError
from twinspire.train.data.training_data import Histories, Judged, Pairs, TrainingData
from twinspire.train.metrics import mean, per_query

MEASURES = {
    "ndcg_at_10": nDCG @ 10,
    "recall_at_10": R @ 10,
    "recall_at_100": R @ 100,
    "mrr_at_10": RR @ 10,
}
ITEMS = 300
Rows = npt.NDArray[np.int64]


def topics(queries: int = 60, seed: int = 0) -> Topics:
    """Graded judgements and rankings: good ones, ones with ties, short ones, and ones that find nothing."""
    draw = np.random.default_rng(seed)
    relevant = [np.sort(draw.choice(ITEMS, draw.integers(1, 25), replace=False)) for _ in range(queries)]
    gains = [draw.integers(1, 5, len(rows)) for rows in relevant]
    scores = np.round(draw.random((queries, ITEMS)), 1).astype(np.float32)  # of 11 values: most are ties
    for row, (items, gained) in enumerate(zip(relevant, gains, strict=True)):
        scores[row, items] += np.float32(0.1) * gained
    ties = np.argsort(-scores, axis=1, kind="stable")[:, :100]
    short = np.where(np.arange(100) < draw.integers(0, 12, queries)[:, None], ties, -1)
    ids = [f"item {n} %" if n % 3 else f"{n}" for n in range(ITEMS)]
    names = [f"query {n}" for n in range(queries)]
    return Topics(
        "judged",
        names,
        [{"text": name} for name in names],
        ids,
        relevant,
        gains,
        {"served": ties, "exact": ties[:, ::-1], "bm25": short},
    )


def measured(folder: Path, ranking: str) -> dict[str, float]:
    """What ir_measures makes of the files."""
    qrels = [*ir_measures.read_trec_qrels(str(folder / "qrels.txt"))]
    run = [*ir_measures.read_trec_run(str(folder / f"{ranking}.run"))]
    found = ir_measures.calc_aggregate(MEASURES.values(), qrels, run)
    return {name: found[measure] for name, measure in MEASURES.items()}


def test_the_figures_are_those_of_ir_measures_with_gains_and_ties(tmp_path: Path) -> None:
    made = topics()
    assert (made.rankings["bm25"] == -1).all(axis=1).any()  # a query without an answer counts as 0
    write_runs(tmp_path / "runs", [made], "tag")
    for name, ranked in made.rankings.items():
        expected = mean(per_query(ranked, made.relevant, made.gains))
        found = measured(tmp_path / "runs" / "judged", name)
        for metric, value in found.items():
            assert value == pytest.approx(expected[metric], abs=1e-9), (name, metric)
    assert len({measured(tmp_path / "runs" / "judged", name)["ndcg_at_10"] for name in made.rankings}) == 3


def test_scores_as_they_are_would_be_measured_in_another_order(tmp_path: Path) -> None:
    """Why a file has ranks in place of scores: tools break ties by the document's id."""
    qrels = [ir_measures.Qrel("q", "a", 1)]
    tied = [ir_measures.ScoredDoc("q", name, 0.5) for name in ("a", "b")]
    assert ir_measures.calc_aggregate([nDCG @ 1], qrels, tied)[nDCG @ 1] == 0
    made = replace(
        topics(1), ids=["q"], items=["a", "b"], relevant=[np.array([0])], gains=[np.array([1])],
        rankings={"served": np.array([[0, 1]])},
    )  # fmt: skip
    write_runs(tmp_path / "runs", [made], "tag")
    assert measured(tmp_path / "runs" / "judged", "served")["mrr_at_10"] == 1


def test_every_line_has_six_fields_and_ids_come_back(tmp_path: Path) -> None:
    made = topics(3)
    write_runs(tmp_path / "runs", [made], "papers-0123")
    lines = (tmp_path / "runs" / "judged" / "served.run").read_text().splitlines()
    assert len(lines) == 300
    best = made.items[made.rankings["served"][0, 0]].replace("%", "%25").replace(" ", "%20")
    assert lines[0] == f"query%200 Q0 {best} 1 100 papers-0123-served"
    assert {len(line.split()) for line in lines} == {6}
    assert len({line.split()[2] for line in lines[:100]}) == 100
    judged = (tmp_path / "runs" / "judged" / "qrels.txt").read_text().splitlines()
    assert len(judged) == sum(map(len, made.relevant))
    assert sorted(p.name for p in (tmp_path / "runs" / "judged").iterdir()) == [
        "bm25.run",
        "exact.run",
        "qrels.txt",
        "queries.jsonl",
        "served.run",
    ]


@pytest.mark.parametrize("character", ["\t", "\n", "\r", "\x1c", "\x85", "\u2028", "\u3000", "%", " "])
def test_an_id_is_one_field_whatever_it_holds(character: str, tmp_path: Path) -> None:
    ids = [f"a{character}b", "a%20b", "ab"]
    made = replace(topics(1), items=ids, relevant=[np.array([0, 2])], gains=[np.array([3, 1])])
    write_runs(tmp_path / "runs", [replace(made, rankings={"served": np.array([[0, 1, 2]])})], "t")
    run = [*ir_measures.read_trec_run(str(tmp_path / "runs" / "judged" / "served.run"))]
    assert [each.score for each in run] == [100, 99, 98]
    assert len({each.doc_id for each in run}) == 3
    assert measured(tmp_path / "runs" / "judged", "served")["recall_at_10"] == 1


def test_queries_of_both_parts_are_written_with_ids() -> None:
    texts = ["one", "two", "three", "four"]
    parts = {"test": Pairs(np.array([1, 1, 3]), np.array([0, 2, 1]), np.ones(3, np.float32))}
    judged = Judged(["x", "y"], np.array([2, 2]), [np.array([0]), np.array([1])], [np.array([4])] * 2, {})
    data = TrainingData({"text": texts}, {}, parts, 4, 3, ["a", "b", "c"], judged=judged)
    answers = {"": np.array([[0, 1, 2]] * 2), "bm25": np.array([[2, -1, -1]] * 2)}
    split = split_topics(data, answers)
    assert [each["text"] for each in split.values] == ["two", "four"]
    assert [rows.tolist() for rows in split.relevant] == [[0, 2], [1]]
    assert [gains.tolist() for gains in split.gains] == [[1, 1], [1]]
    assert list(split.rankings) == ["served", "bm25"]
    assert len({*split.ids}) == 2
    again = replace(data, queries={"text": ["else", *texts[1:]]})
    assert list(split_topics(again, answers).ids) == list(split.ids)
    found = judged_topics(data, answers)
    assert (list(found.ids), [each["text"] for each in found.values]) == (["x", "y"], ["three", "three"])
    assert [gains.tolist() for gains in found.gains] == [[4], [4]]


def test_users_with_equal_values_are_two_queries(tmp_path: Path) -> None:
    rows = np.array([0, 1, 0])
    histories = Histories(rows, np.array([0, 1, 2, 1]), np.array([1, 1, 2, 3]), ["a", "b"])
    queries = {"history": histories, "device": ["car"] * 4}  # the rows 1 and 2 are empty histories
    parts = {"test": Pairs(np.arange(4), np.array([1, 0, 1, 1]), np.ones(4, np.float32))}
    data = TrainingData(queries, {}, parts, 4, 2, ["a", "b"], histories)
    made = split_topics(data, {"": np.array([[0, 1], [0, 1], [0, 1], [1, 0]])})
    assert made.values[1] == made.values[2] == {"history": [], "device": "car"}
    assert len({*made.ids}) == 4
    write_runs(tmp_path / "runs", [made], "t")
    expected = mean(per_query(made.rankings["served"], made.relevant, made.gains))
    found = measured(tmp_path / "runs" / "test", "served")
    assert found == pytest.approx({name: expected[name] for name in found}, abs=1e-9)


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    check_output(tmp_path / "mine")  # an empty one will do
    write_runs(tmp_path / "mine", [topics(1)], "t")
    before = (tmp_path / "mine" / "judged" / "served.run").read_bytes()
    (tmp_path / "file").write_text("x")
    (tmp_path / "link").symlink_to(tmp_path)
    for name in ("mine", "file", "link"):
        with pytest.raises(DataError, match=f"{name}: expected an empty folder for run files"):
            write_runs(tmp_path / name, [topics(2)], "t")
    assert (tmp_path / "mine" / "judged" / "served.run").read_bytes() == before
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "link", "mine"]


def test_a_full_disk_leaves_nothing(tmp_path: Path) -> None:
    with files_limited_to(20_000), pytest.raises(DataError, match="runs: the run files cannot be written"):
        write_runs(tmp_path / "runs", [topics(40)], "t")
    assert [*tmp_path.iterdir()] == []
