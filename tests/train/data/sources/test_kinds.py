"""A source is one module in `train/data/sources/`, whose name is its kind."""

import io
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Literal, get_args, get_origin, get_type_hints

import pytest
from rich.console import Console

from twinspire.protos.errors import ConfigError
from twinspire.protos.toml_config import KindsIn
from twinspire.train.config import read_experiment
from twinspire.train.data import sources
from twinspire.train.data.dataset import prepare
from twinspire.train.data.source import SourceConfig
from twinspire.train.paths import CONFIGS, ROOT

KINDS = KindsIn("twinspire.train.data.sources")
README = ROOT / "train" / "data" / "sources" / "README.md"
TOML = """
name = "questions"
data = { kind = "forum", dump = "dump.jsonl" }
query.text = { kind = "text", column = "query" }
item.text = { kind = "text", column = "answer" }
tower = { kind = "bag" }
loss = { kind = "in_batch_softmax" }
"""


@pytest.mark.parametrize("kind", KINDS.kinds())
def test_every_module_defines_its_kind(kind: str) -> None:
    schema = KINDS.schema(kind)
    assert issubclass(schema, SourceConfig)
    assert schema.__module__ == f"twinspire.train.data.sources.{kind}"
    hint = get_type_hints(schema)["kind"]
    assert get_origin(hint) is Literal
    assert get_args(hint) == (kind,)


def test_a_new_kind_is_one_new_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "more").mkdir()
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    (example,) = [each for each in blocks if "questions and answers" in each.lower()]
    (tmp_path / "more" / "forum.py").write_text(example)
    (tmp_path / "a.toml").write_text(TOML)
    lines = [{"id": f"{n}", "question": f"question {n}", "answer": f"answer {n}"} for n in range(20)]
    (tmp_path / "dump.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(ConfigError, match=r"data\.kind: expected one of 'beir', .*, got 'forum'"):
        read_experiment(tmp_path / "a.toml")
    monkeypatch.setattr(sources, "__path__", [*sources.__path__, str(tmp_path / "more")])
    try:
        experiment = read_experiment(tmp_path / "a.toml")
        dataset = prepare(experiment, tmp_path, tmp_path / "cache", console=Console(file=io.StringIO()))
    finally:
        sys.modules.pop("twinspire.train.data.sources.forum", None)
    assert (dataset.report["kind"], dataset.items.height, dataset.pairs.height) == ("forum", 20, 20)
    assert dataset.items.row(0) == ("0", "answer 0")


def test_reading_an_experiment_imports_only_its_own_source() -> None:
    code = (
        "import sys\nfrom pathlib import Path\nfrom twinspire.train.config import read_experiment\n"
        "read_experiment(Path(sys.argv[1]))\n"
        "found = [name for name in sys.modules if name.startswith('twinspire.train.data.sources.')]\n"
        "print(found, 'torch' in sys.modules)"
    )
    command = [sys.executable, "-c", code, str(CONFIGS / "movielens.toml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.stdout == "['twinspire.train.data.sources.movielens'] False\n", done.stderr
