import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.pretrained import (
    MAX_TOKENS,
    VOCABULARY,
    WIDTH,
    needs_tokenizers,
    write_description,
)
from twinspire.protos.errors import ConfigError
from twinspire.train.models.pretrained.folder import PretrainedFolder

pytestmark = needs_tokenizers()


@pytest.fixture(scope="module")
def described(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_description(tmp_path_factory.mktemp("described"))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def folder(described: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(described, tmp_path / "mini"))


def changed(path: Path, **values: Any) -> None:
    content = json.loads(path.read_text()) | values
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def test_a_folder_of_sentence_transformers_is_read(folder: Path) -> None:
    found = PretrainedFolder.read(folder)
    assert (found.model_type, found.width, found.max_tokens) == ("bert", WIDTH, MAX_TOKENS)
    assert (found.pooling, found.normalise, found.licence) == ("mean", True, "apache-2.0")
    assert set(found.files) == {
        "config.json",
        "tokenizer.json",
        "modules.json",
        "1_Pooling/config.json",
        "sentence_bert_config.json",
    }
    assert found.describe() == (
        "mini: bert, 32 dimensions, mean pooling, up to 24 tokens of a text; licence apache-2.0"
    )


def test_a_folder_without_modules_is_mean_pooling_and_norm(folder: Path) -> None:
    for name in ("modules.json", "sentence_bert_config.json", "README.md"):
        (folder / name).unlink()
    found = PretrainedFolder.read(folder)
    assert (found.pooling, found.normalise, found.max_tokens) == ("mean", True, 40)
    assert found.describe().endswith("its folder states no licence")


def test_the_fewest_tokens_that_a_file_says_hold(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 12}))
    assert PretrainedFolder.read(folder).max_tokens == 12
    (folder / "tokenizer_config.json").write_text(json.dumps({"model_max_length": 1e30}))  # no limit
    assert PretrainedFolder.read(folder).max_tokens == MAX_TOKENS


def test_positions_of_padding_are_none_of_a_text(folder: Path) -> None:
    (folder / "sentence_bert_config.json").unlink()
    changed(folder / "config.json", model_type="roberta")
    assert PretrainedFolder.read(folder).max_tokens == 38


@pytest.mark.parametrize(
    ("modes", "pooling"),
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode": "cls", "pooling_mode_mean_tokens": None}, "cls"),
    ],
)
def test_cls_pooling_is_read_in_both_spellings(folder: Path, modes: dict[str, Any], pooling: str) -> None:
    changed(folder / "1_Pooling" / "config.json", **modes)
    assert PretrainedFolder.read(folder).pooling == pooling


def test_without_a_norm_the_encoder_does_not_normalise(folder: Path) -> None:
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "modules.json").write_text(json.dumps(modules[:2]))
    assert not PretrainedFolder.read(folder).normalise


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("config.json", None, "config.json: a pretrained model needs this file: No such file"),
        ("config.json", "{", "config.json: not JSON"),
        ("config.json", "[]", "config.json: expected a JSON object, got list"),
        (
            "config.json",
            '{"model_type": "gpt2"}',
            "model_type: expected one of bert, distilbert, .* got 'gpt2'",
        ),
        ("config.json", '{"model_type": "bert"}', "hidden_size: expected a number above 0, got None"),
        ("tokenizer.json", None, "tokenizer.json: not a tokenizer: No such file"),
        ("tokenizer.json", "{}", "tokenizer.json: not a tokenizer"),
        ("modules.json", "{}", "modules.json: expected a list of modules"),
        ("modules.json", '[{"type": "a.Transformer"}, {"type": "a.Dense"}]', "got Transformer, Dense"),
        (
            "modules.json",
            '[{"type": "a.Transformer"}, {"type": "a.Pooling", "path": "../../etc"}]',
            "modules.json: path: expected a plain relative file name, got '../../etc'",
        ),
        (
            "1_Pooling/config.json",
            '{"pooling_mode_max_tokens": true}',
            "expected mean or cls pooling, got pool",
        ),
        ("1_Pooling/config.json", None, "1_Pooling/config.json: a pretrained model needs this file"),
    ],
)
def test_what_is_wrong_with_a_folder_is_said(
    folder: Path, name: str, content: str | None, expected: str
) -> None:
    (folder / name).unlink()
    if content is not None:
        (folder / name).write_text(content)
    with pytest.raises(ConfigError, match=expected):
        PretrainedFolder.read(folder)


def test_a_tokenizer_of_another_model_is_refused(folder: Path) -> None:
    changed(folder / "config.json", vocab_size=50)
    with pytest.raises(ConfigError, match="but the model has vectors of 50: they do not belong together"):
        PretrainedFolder.read(folder)
    changed(folder / "config.json", vocab_size=VOCABULARY)
    PretrainedFolder.read(folder)


def test_no_folder_is_refused_by_its_key(tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"none: expected the folder of a pretrained model \(tower\.model\)"
    ):
        PretrainedFolder.read(tmp_path / "none")


def test_weights_that_can_run_code_are_not_read(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ConfigError, match=r"expected weights in model\.safetensors"):
        PretrainedFolder.read(folder).weights()


@pytest.mark.parametrize(
    "name", ["model.safetensors", "tokenizer.json", "1_Pooling/config.json", "config.json"]
)
def test_the_identity_covers_what_vectors_depend_on(folder: Path, name: str) -> None:
    found = PretrainedFolder.read(folder)
    before = found.identity()
    (folder / "README.md").write_text("another text")
    assert found.identity() == before
    with (folder / name).open("ab") as file:
        file.write(b" ")
    assert found.identity() != before


def test_a_licence_is_one_short_line(folder: Path) -> None:
    (folder / "README.md").write_text('---\nlicense: "cc-by\x1b[31m-4.0"\n---\n')
    assert PretrainedFolder.read(folder).licence == "cc-by[31m-4.0"
    (folder / "README.md").write_text("---\nlicense: " + "x" * 900 + "\n---\n")
    assert len(PretrainedFolder.read(folder).licence) == 200
    (folder / "README.md").write_text("no front matter\nlicense: mit\n")
    assert PretrainedFolder.read(folder).licence == ""
    changed(folder / "config.json", license="mit")
    assert PretrainedFolder.read(folder).licence == "mit"
    (folder / "README.md").write_text("---\nlicense:\n- apache-2.0\n---\n")  # a list, which is not read
    assert PretrainedFolder.read(folder).licence == "mit"


def test_what_changes_a_text_before_its_tokens_is_refused(folder: Path) -> None:
    changed(folder / "sentence_bert_config.json", do_lower_case=True)
    with pytest.raises(ConfigError, match=r"sentence_bert_config\.json: do_lower_case: expected false"):
        PretrainedFolder.read(folder)
    changed(folder / "sentence_bert_config.json", do_lower_case=False)
    prompts = folder / "config_sentence_transformers.json"
    prompts.write_text(json.dumps({"prompts": {"query": "query: "}, "default_prompt_name": "query"}))
    with pytest.raises(ConfigError, match="default_prompt_name: expected none, got 'query'"):
        PretrainedFolder.read(folder)
