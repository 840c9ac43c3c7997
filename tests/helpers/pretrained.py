"""A tiny pretrained text encoder in a folder of Hugging Face layout: random weights, a real tokenizer.

Its tokenizer knows a few hundred pieces of the words of the standard library's docstrings, and truncates and
pads, as the tokenizers of published models do, which has no effect here.
"""

import json
import random
import sys
import unicodedata
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pytest

WIDTH = 32
VOCABULARY = 600  # pieces; a smaller table would not be stored in a lower precision
MAX_TOKENS = 24
ITEMS = 90  # of an experiment
SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
TEXTS = (
    "Read a CSV file into rows of strings.",
    "Return the mean of the numbers in a list.",
    "Compute the shortest path between two nodes.",
    "Open a file and read all lines, without newlines.",
    "Split a text at spaces and join the words again.",
    "Parse arguments of the command line.",
    "naïve café Ελληνικά русский 搜索 引擎",
)


def write_tokenizer(folder: Path, texts: Sequence[str] = TEXTS, vocabulary: int = VOCABULARY) -> Path:
    """Write a WordPiece `tokenizer.json`, as BERT's, trained on some texts."""
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers

    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    trainer = trainers.WordPieceTrainer(
        vocab_size=vocabulary, special_tokens=[*SPECIAL], show_progress=False, min_frequency=1
    )
    tokenizer.train_from_iterator(texts, trainer)
    ends = [(name, tokenizer.token_to_id(name)) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B [SEP]", special_tokens=ends
    )
    tokenizer.enable_truncation(8)
    tokenizer.enable_padding(length=8)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


@cache
def texts_of_many_scripts(count: int) -> list[str]:
    """The same texts each time: runs of letters, marks, digits, signs and spaces from all of Unicode.

    A run comes from one stretch of 128 code points, so most of them are in one script. Some texts hold lone
    surrogates, control characters, or the names of special tokens.
    """
    generator = random.Random(0)
    stretches: dict[int, list[str]] = {}
    for code in range(sys.maxunicode + 1):
        if unicodedata.category(chr(code)) not in ("Cn", "Co"):
            stretches.setdefault(code // 128, []).append(chr(code))
    odd = ("\ud800", "\x00", "\u200d", "\ufeff", "\U000e0001", *SPECIAL)
    texts = []
    for _ in range(count):
        parts = []
        for _ in range(generator.randint(1, 5)):
            letters = stretches[generator.choice([*stretches])] if generator.random() < 0.8 else odd
            parts.append("".join(generator.choices(letters, k=generator.randint(1, 9))))
            parts.append(generator.choice(("", " ", " ", "\n", "-")))
        texts.append("".join(parts))
    return texts


def write_description(
    folder: Path, texts: Sequence[str] = TEXTS, kind: str = "bert", pooling: str = "mean", **changed: Any
) -> Path:
    """Write all files of a model of two layers but its weights, in the layout of sentence-transformers.

    Args:
        changed: keys of `config.json` that shall be something else.
    """
    folder.mkdir(parents=True, exist_ok=True)
    write_tokenizer(folder, texts)
    settings = {
        "model_type": kind,
        "vocab_size": VOCABULARY,
        "hidden_size": WIDTH,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 40,
        "initializer_range": 0.3,  # vectors of different texts differ more
        "pad_token_id": 0,
        **changed,
    }
    (folder / "config.json").write_text(json.dumps(settings))
    modules = [("Transformer", ""), ("Pooling", "1_Pooling"), ("Normalize", "2_Normalize")]
    listed = [
        {"idx": n, "name": str(n), "path": path, "type": f"sentence_transformers.models.{name}"}
        for n, (name, path) in enumerate(modules)
    ]
    (folder / "modules.json").write_text(json.dumps(listed))
    (folder / "1_Pooling").mkdir()
    modes = {"mean": "pooling_mode_mean_tokens", "cls": "pooling_mode_cls_token"}
    chosen = {key: name == pooling for name, key in modes.items()}
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(chosen))
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": MAX_TOKENS}))
    (folder / "README.md").write_text("---\nlanguage: en\nlicense: apache-2.0\n---\n# A tiny model\n")
    return folder


def write_model(
    folder: Path, texts: Sequence[str] = TEXTS, kind: str = "bert", pooling: str = "mean", **changed: Any
) -> Path:
    """Write a model with random weights; arguments as of `write_description`."""
    import torch
    import transformers
    from safetensors.torch import save_file

    write_description(folder, texts, kind, pooling, **changed)
    torch.manual_seed(0)
    model = transformers.AutoModel.from_config(transformers.AutoConfig.from_pretrained(folder))
    save_file(model.state_dict(), folder / "model.safetensors", {"format": "pt"})
    return folder


def write_experiment(folder: Path, stdlib: Path, name: str, **tower: Any) -> Path:
    """Write a tiny model, some of the tables of `tests.helpers.stdlib`, and an experiment on them.

    Args:
        tower: keys of `[tower]`.
    """
    import polars as pl

    from tests.helpers.stdlib import PLAIN, QUICK, write_sections

    items = pl.read_parquet(stdlib / "items.parquet").head(ITEMS)
    pairs = pl.read_parquet(stdlib / "pairs.parquet")
    items.write_parquet(folder / "items.parquet")
    pairs.filter(pl.col("item_id").is_in(items["item_id"].to_list())).write_parquet(folder / "pairs.parquet")
    write_model(folder / "mini", items["text"].to_list())
    sections = {
        "data": {
            "kind": "files",
            "items": "items.parquet",
            "pairs": "pairs.parquet",
            "display": ["name"],
            "group": "group",
        },
        **PLAIN,
        "query.text": {"kind": "text", "column": "query"},
        "item.text": {"kind": "text", "column": "text", "catalogue_column": "full_text"},
        "tower": {"kind": "transformer", "model": "mini", "query_hidden": 16, "item_hidden": 16, **tower},
        "loss": {"kind": "in_batch_softmax", "hard_negatives": 1, "uniform_negatives": 8},
        "training": {"epochs": 2, "batch_size": 32, "threads": 1},
        **{name: QUICK[name] for name in ("export", "hybrid", "baselines")},
    }
    return write_sections(folder / f"{name}.toml", name, sections, {})


def needs_tokenizers() -> pytest.MarkDecorator:
    """Skips tests where `tokenizers` is not installed."""
    return pytest.mark.skipif(_is_absent("tokenizers"), reason="tokenizers is not installed")


def needs_transformers() -> pytest.MarkDecorator:
    """Skips tests where `transformers` is not installed."""
    return pytest.mark.skipif(_is_absent("transformers"), reason="transformers is not installed")


def _is_absent(package: str) -> bool:
    import importlib.util

    return importlib.util.find_spec(package) is None
