"""A small folder in the layout of BEIR, of pseudo-words, with judgements in four grades.

A document belongs to a topic, whose words it holds beside words of its own; titles and questions are of the
same words. A question is about one topic, and the documents of the topic that share more of its words have
higher scores.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

SYLLABLES = ("ba", "ke", "li", "mo", "nu", "py", "ra", "so", "ti", "vu", "xe", "zo")
TOPICS = 12
DOCUMENTS = 240
QUESTIONS = 30
QRELS = "query-id\tcorpus-id\tscore\n"


def write_folder(
    folder: Path,
    documents: Sequence[Mapping[str, Any]],
    queries: Mapping[str, str] | None = None,
    **qrels: Sequence[tuple[str, str, object]],
) -> Path:
    """Write a folder.

    Args:
        documents: lines of `corpus.jsonl`.
        queries: id -> text; no `queries.jsonl` without them.
        qrels: split -> query, document and score of each line.
    """
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    (folder / "corpus.jsonl").write_text("".join(f"{json.dumps(each)}\n" for each in documents))
    if queries is not None:
        lines = [json.dumps({"_id": name, "text": text}) for name, text in queries.items()]
        (folder / "queries.jsonl").write_text("".join(f"{line}\n" for line in lines))
    for split, rows in qrels.items():
        text = "".join("\t".join(map(str, row)) + "\n" for row in rows)
        (folder / "qrels" / f"{split}.tsv").write_text(QRELS + text)
    return folder


def write_papers(folder: Path) -> Path:
    """Write `papers/`, and `papers.toml` beside it, an experiment of three lines and what keeps it small."""
    draw = np.random.default_rng(0)
    words = ["".join(draw.choice(SYLLABLES, 3)) for _ in range(TOPICS * 12 + 400)]
    documents, texts = [], []
    for n in range(DOCUMENTS):
        topic = words[12 * (n % TOPICS) :][:12]
        own = list(draw.choice(words[TOPICS * 12 :], 12))
        title = [*draw.choice(topic, 3, replace=False), own[0]]
        text = [*draw.permutation([*draw.choice(topic, 8, replace=False), *own])]
        texts.append({*title, *text})
        documents.append({"_id": f"d {n}", "title": " ".join(title), "text": " ".join([*title, *text])})
    documents.append({"_id": "empty", "title": "", "text": ""})
    queries, judged = {}, []
    for n in range(QUESTIONS):
        asked = draw.choice(words[12 * (n % TOPICS) :][:12], 5, replace=False)
        queries[f"q%{n}"] = "what about " + " ".join(asked)
        for row in range(n % TOPICS, DOCUMENTS, TOPICS):
            score = len(texts[row] & {*asked}) - 2
            judged.append((f"q%{n}", f"d {row}", max(score, 0)))
    judged.append(("q%0", "empty", 3))
    judged.append(("q%1", "withdrawn", 2))
    queries["again"] = queries["q%0"]  # a second query with the same text and other judgements
    judged.append(("again", "d 0", 1))
    queries["nothing"] = "what about nothing at all"
    judged.append(("nothing", "d 1", 0))
    write_folder(folder / "papers", documents, queries, test=judged)
    path = folder / "papers.toml"
    path.write_text('name = "papers"\ndata.kind = "beir"\ndata.folder = "papers"\n' + SMALL)
    return path


SMALL = """
[tower]
kind = "bag"
dimension = 32
latent = 16
buckets = 4096
item_hidden = 16

[training]
epochs = 2
batch_size = 32
threads = 1

[export]
iterations = 20

[index]
threads = 1
m = 8
ef_construction = 100
search = "graph"

[gates]
iterations = 2500
"""
