"""A BEIR folder: pairs of its train split or of titles, and errors that name file, row and column."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.beir import write_folder
from tests.helpers.sources import source_context
from twinspire.protos.errors import ConfigError, DataError
from twinspire.protos.features import CategoryFeature, FeatureSpec, TextFeature
from twinspire.train.config import read_experiment
from twinspire.train.config.data import FilterConfig
from twinspire.train.config.losses import InBatchSoftmax
from twinspire.train.config.towers import DssmTower
from twinspire.train.data.filters import PREFIX
from twinspire.train.data.source import Tables
from twinspire.train.data.sources.beir import SECTIONS, BeirData

QUERY: dict[str, FeatureSpec] = {"text": TextFeature(**SECTIONS["query"]["text"])}
ITEM: dict[str, FeatureSpec] = {"text": TextFeature(**SECTIONS["item"]["text"])}
DOCUMENTS = [
    {"_id": "a", "title": "Wing flutter", "text": "Wing flutter. It was measured at high speed."},
    {"_id": "b", "title": "Heat", "text": "Slabs conduct heat slowly."},
    {"_id": "c", "title": "", "text": "A note."},
    {"_id": "d", "title": "Shock waves", "text": ""},
    {"_id": "e", "title": "WING  FLUTTER", "text": "Another paper."},
]
QUERIES = {"1": "why do wings flutter", "2": "how slow is heat", "3": "why do wings flutter"}


def read(
    folder: Path,
    documents: list[Any] | None = None,
    query: Mapping[str, FeatureSpec] = QUERY,
    item: Mapping[str, FeatureSpec] = ITEM,
    filter: FilterConfig | None = None,
    train: Any = None,
    queries: Mapping[str, str] | None = None,
    **data: Any,
) -> Tables:
    qrels = {} if train is None else {"train": train}
    write_folder(
        folder / "papers", DOCUMENTS if documents is None else documents, queries or QUERIES, **qrels
    )
    section = BeirData(kind="beir", folder="papers", **data)
    source = section.open(source_context(folder, query, item, filter=filter))
    source.identity()
    return source.read()


def test_without_a_train_split_titles_are_the_queries(tmp_path: Path) -> None:
    tables = read(tmp_path)
    assert tables.pairs.collect().select("query", "item_row", "group").rows() == [
        ("Wing flutter", 0, "wing flutter"),
        ("Heat", 1, "heat"),
        ("WING FLUTTER", 4, "wing flutter"),  # of one group: a split keeps both together
    ]
    assert tables.dropped == {"document without a title": 1, "document with nothing beside its title": 1}
    assert tables.origin["trained_on"] == "titles"


def test_a_document_is_trained_without_its_title_and_served_with_it(tmp_path: Path) -> None:
    items = read(tmp_path).items
    assert items.columns == ["item_id", "title", "text", "document", "content"]
    assert items["content"].to_list() == [
        ". It was measured at high speed.",
        "Slabs conduct slowly.",
        "A note.",
        "",
        "Another paper.",
    ]
    assert items["document"].to_list() == [
        "Wing flutter. It was measured at high speed.",
        "Heat Slabs conduct heat slowly.",
        "A note.",
        "Shock waves",
        "WING  FLUTTER Another paper.",
    ]


TRAIN = [
    ("1", "a", 2),
    ("2", "b", 1),
    ("3", "a", 1),
    ("1", "c", 0),
    ("1", "a", 2),
    ("9", "a", 1),
    ("1", "z", 1),
]


def test_a_train_split_gives_the_pairs(tmp_path: Path) -> None:
    tables = read(tmp_path, train=TRAIN)
    assert tables.pairs.collect().select("query", "item_row", "weight", "group").rows() == [
        ("why do wings flutter", 0, 1.0, "why do wings flutter"),
        ("how slow is heat", 1, 1.0, "how slow is heat"),
    ]
    assert tables.dropped == {
        "judgement merged with an equal one": 1,
        "judgement of a query that is not in queries.jsonl": 1,
        "judgement of a document that is not in the catalogue": 1,
        "judgement with a score of 0 or less": 1,
        "pair merged with an equal one": 1,
    }
    assert tables.items["content"].to_list() == tables.items["document"].to_list()
    assert tables.origin["trained_on"] == "qrels"


def test_the_identity_covers_what_is_read(tmp_path: Path) -> None:
    write_folder(tmp_path / "papers", DOCUMENTS, QUERIES)
    source = BeirData(kind="beir", folder="papers").open(source_context(tmp_path, QUERY, ITEM))
    titles = source.identity()
    write_folder(tmp_path / "papers", DOCUMENTS, QUERIES, train=TRAIN)
    judged = source.identity()
    write_folder(tmp_path / "papers", DOCUMENTS, QUERIES, train=TRAIN[:2])
    assert len({titles, judged, source.identity()}) == 3


def test_other_keys_of_a_document_can_be_read(tmp_path: Path) -> None:
    documents = [{**each, "year": 1960 + n, "tags": ["x"] * n} for n, each in enumerate(DOCUMENTS)]
    item = {**ITEM, "tags": CategoryFeature("category", "tags", multi=True)}
    tables = read(
        tmp_path, documents, item=item, filter=FilterConfig(fields=("year",)), display=("title", "year")
    )
    assert tables.items["tags"].to_list() == [["x"] * n for n in range(5)]
    assert tables.items["year"].to_list() == ["1960", "1961", "1962", "1963", "1964"]
    assert tables.items[f"{PREFIX}year"].to_list() == [1960.0, 1961, 1962, 1963, 1964]


def test_a_corpus_without_titles_can_be_trained_on_judgements(tmp_path: Path) -> None:
    documents = [{"_id": each["_id"], "text": each["text"]} for each in DOCUMENTS]
    tables = read(tmp_path, documents, train=TRAIN)
    assert tables.items["title"].to_list() == [""] * 5
    assert tables.items["document"].to_list() == [each["text"] for each in DOCUMENTS]


BAD: dict[str, tuple[dict[str, Any], str]] = {
    "no title": (
        {"documents": [{"_id": "a", "text": "x"}]},
        "corpus.jsonl: column 'title' is missing; columns present: _id, text",
    ),
    "blank titles": (
        {"documents": [{"_id": "a", "title": " ", "text": "x"}]},
        "corpus.jsonl: expected a document with a title and a text to train on, got none in 1 "
        "(document without a title: 1); see",
    ),
    "score that is no number": (
        {"train": [("1", "a", 1), ("2", "b", "high")]},
        "train.tsv: row 2, column 'score': expected a whole number of at most 1,000, got 'high'",
    ),
    "two scores": (
        {"train": [("1", "a", 1), ("1", "a", 2)]},
        "train.tsv: row 2, column 'score': expected the score that an earlier row gives the same document, "
        "got '2'",
    ),
    "no known pair": (
        {"train": [("1", "a", 0), ("9", "a", 1)]},
        "train.tsv: expected a judgement with a score above 0 of a known query and document, got none in 2 "
        "(judgement of a query that is not in queries.jsonl: 1, judgement with a score of 0 or less: 1)",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_wrong_is_named_by_file_row_and_column(case: str, tmp_path: Path) -> None:
    changed, expected = BAD[case]
    with pytest.raises(DataError) as error:
        read(tmp_path, **changed)
    assert expected in str(error.value)


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    section = BeirData(kind="beir", folder="papers")
    context = source_context(tmp_path, QUERY, ITEM)
    with pytest.raises(DataError, match=r"papers: data.folder: expected a folder with corpus.jsonl, queries"):
        section.open(context).identity()
    write_folder(tmp_path / "papers", DOCUMENTS, train=TRAIN)
    with pytest.raises(DataError, match=r"papers/queries.jsonl: cannot be read: No such file"):
        section.open(context).identity()


def test_three_lines_are_an_experiment(tmp_path: Path) -> None:
    path = tmp_path / "papers.toml"
    path.write_text('name = "papers"\ndata.kind = "beir"\ndata.folder = "papers"\n')
    experiment = read_experiment(path)
    assert experiment.data == BeirData(kind="beir", folder="papers")
    assert (experiment.query, experiment.item) == (QUERY, ITEM)
    path.write_text('name = "papers"\n[data]\nkind = "beir"\nfolder = "papers"\n[tower]\nkind = "dssm"\n')
    assert read_experiment(path).tower.kind == "dssm"
    assert read_experiment(path).item == ITEM


@pytest.mark.parametrize(
    ("tower", "loss", "expected"),
    [
        ("", "", InBatchSoftmax("in_batch_softmax", 0.03, hard_negatives=1)),
        ('[tower]\nkind = "dssm"\n', "", DssmTower.usual_loss),
        ("", '[loss]\nkind = "in_batch_softmax"\n', InBatchSoftmax("in_batch_softmax")),
    ],
)
def test_the_loss_of_the_folder_is_that_of_its_tower(
    tower: str, loss: str, expected: Any, tmp_path: Path
) -> None:
    path = tmp_path / "papers.toml"
    path.write_text(f'name = "papers"\n[data]\nkind = "beir"\nfolder = "papers"\n{tower}{loss}')
    assert read_experiment(path).loss == expected


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        ('folder = "x"\njudged_split = "../test"', "data.judged_split: expected a plain relative file name"),
        ('folder = "x"\njudged_split = "train"', 'data.judged_split: "train" is trained on'),
    ],
)
def test_bad_keys_are_named(lines: str, expected: str, tmp_path: Path) -> None:
    path = tmp_path / "papers.toml"
    path.write_text(f'name = "papers"\n[data]\nkind = "beir"\n{lines}\n')
    with pytest.raises(ConfigError) as error:
        read_experiment(path)
    assert f"{path}: {expected}" in str(error.value)
