import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from tests.helpers.pretrained import (
    MAX_TOKENS,
    TEXTS,
    VOCABULARY,
    needs_tokenizers,
    texts_of_many_scripts,
    write_tokenizer,
)
from twinspire.protos.errors import BundleDamaged, InvalidInput, PackageMissing
from twinspire.protos.features import CHARACTERS_OF_TOKEN, Schema, TextFeature
from twinspire.protos.files.tokenizer import TOKENIZER, open_cut, open_tokenizer, vocabulary_size
from twinspire.protos.toml_config import parse, to_table

pytestmark = needs_tokenizers()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tokenizer(tmp_path_factory.mktemp("tokenizer")).parent


def feature(max_length: int = MAX_TOKENS) -> TextFeature:
    return TextFeature("text", "text", max_length, input="tokens")


def test_numbers_are_ids_plus_one_between_the_special_tokens(folder: Path) -> None:
    from tokenizers import Tokenizer

    reference = Tokenizer.from_file(str(folder / TOKENIZER))
    reference.no_padding()
    reference.no_truncation()
    tokens = open_tokenizer(folder / TOKENIZER, 512)
    for text in TEXTS:
        assert tokens(text) == [each + 1 for each in reference.encode(text).ids]
        assert len(tokens(text)) > 8  # where the file truncates and pads


def test_a_long_text_is_cut_and_keeps_its_special_tokens(folder: Path) -> None:
    tokens, whole = open_tokenizer(folder / TOKENIZER, 6), open_tokenizer(folder / TOKENIZER, 512)
    text = TEXTS[0]
    assert tokens(text) == [*whole(text)[:5], whole(text)[-1]]


@pytest.mark.parametrize("text", ["", " ", "\n\t ", "\x00"])
def test_a_text_without_tokens_gives_no_numbers(folder: Path, text: str) -> None:
    assert open_tokenizer(folder / TOKENIZER, 512)(text) == []


def test_a_text_cannot_bring_special_tokens(folder: Path) -> None:
    special = {each + 1 for each in range(5)} - {2}  # an unknown piece is no end of a text
    for text in ("[SEP]", "a [CLS] b", "[PAD][PAD]", "[MASK]"):
        assert not special & {*open_tokenizer(folder / TOKENIZER, 512)(text)[1:-1]}


def test_the_part_that_is_read_has_the_same_tokens(folder: Path) -> None:
    for length in (4, 6, 9):
        tokens = open_tokenizer(folder / TOKENIZER, length)
        cut = open_cut(folder / TOKENIZER, length)
        for text in (*TEXTS, "a\ud800 lone surrogate in a text of several words"):
            part = cut(text)
            assert text.startswith(part)
            assert tokens(part) == tokens(text)
            assert (len(part) < len(text)) == (len(open_tokenizer(folder / TOKENIZER, 512)(text)) > length)
    whole = open_cut(folder / TOKENIZER, 512)
    assert whole("a file.  ") == "a file.  "
    assert whole("") == ""


def test_a_bundle_reads_the_tokens_of_training_in_texts_of_many_scripts(tmp_path: Path) -> None:
    """Training reads the model's folder; a bundle its own copy, by features that its manifest describes."""
    texts = texts_of_many_scripts(2_000)
    known = [text.encode("utf-8", "replace").decode() for text in texts[::4]]
    (tmp_path / "model").mkdir()
    (tmp_path / "bundle").mkdir()
    write_tokenizer(tmp_path / "model", known, 12_000)
    schema = Schema({"text": feature()}, {"text": feature()}).in_folder(tmp_path / "model")
    schema.copy_files(tmp_path / "bundle")
    described = parse(json.loads(json.dumps(to_table(schema))), Schema).in_folder(tmp_path / "bundle")
    trained = schema.side("query").to_arrays
    convert = described.side("query").to_arrays
    different, seen = [], set()
    for text in texts:
        expected = trained({"text": [text]})["text"]
        seen.update(expected[0].tolist())
        if not np.array_equal(convert({"text": [text]})["text"], expected):
            different.append(ascii(text))
    assert different == []
    assert len(seen) > 3000  # most texts are more than unknown pieces


def test_a_value_that_is_no_text_is_refused_by_name(folder: Path) -> None:
    with pytest.raises(InvalidInput, match=r"query\.text: expected a string, got int"):
        feature().converters("text", {}, folder)["text"]([7], "query.text")


def test_a_text_may_be_read_both_ways(folder: Path) -> None:
    text = feature(6)
    both, plain = (dataclasses.replace(text, input=each) for each in ("both", "code_points"))
    assert both.reads_tokens
    assert both.longest == text.longest == 6 * CHARACTERS_OF_TOKEN
    inputs = Schema({"a": plain}, {"a": both}).in_folder(folder).side("item")
    assert inputs.files == [folder / TOKENIZER]
    arrays = inputs.to_arrays({"a": [*TEXTS]})
    assert {*arrays} == {"a", "a__code_points"}
    np.testing.assert_array_equal(arrays["a"], text.converters("text", {}, folder)["text"]([*TEXTS], "a"))
    as_read = dataclasses.replace(plain, max_length=both.longest)
    np.testing.assert_array_equal(
        arrays["a__code_points"], as_read.converters("text", {}, folder)["text"]([*TEXTS], "a")
    )
    with pytest.raises(InvalidInput, match=r"item\.a: expected a string, got int"):
        inputs.to_arrays({"a": [7]})


def test_two_arrays_of_one_name_are_refused() -> None:
    both = dataclasses.replace(feature(), input="both")
    with pytest.raises(ValueError, match=r"item\.a__code_points: another feature has an array of this name"):
        Schema({"a": feature()}, {"a": both, "a__code_points": feature()})


def test_what_is_read_of_a_text_is_bounded_by_its_tokens(folder: Path) -> None:
    spec = feature(4)
    assert spec.longest == 4 * CHARACTERS_OF_TOKEN
    far = " " * spec.longest + "file"
    assert not spec.converters("text", {}, folder)["text"]([far], "text").any()


def test_too_few_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="max_length: expected at least 3 tokens, got 2"):
        feature(2)


def test_another_file_at_the_same_path_is_another_tokenizer(tmp_path: Path) -> None:
    path = write_tokenizer(tmp_path)
    before = open_tokenizer(path, 512)(TEXTS[0])
    write_tokenizer(tmp_path, ["entirely other words"])
    assert open_tokenizer(path, 512)(TEXTS[0]) != before


@pytest.mark.parametrize("content", ["", "{}", "[1]", json.dumps({"version": "1.0", "model": {"type": "?"}})])
def test_a_file_that_is_no_tokenizer_is_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / TOKENIZER
    with pytest.raises(BundleDamaged, match=r"tokenizer\.json: a tower reads this tokenizer: No such file"):
        open_tokenizer(path, 8)
    path.write_text(content)
    with pytest.raises(BundleDamaged, match=r"tokenizer\.json: not a tokenizer: "):
        open_tokenizer(path, 8)


def test_the_size_of_the_vocabulary_counts_special_tokens(folder: Path) -> None:
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    assert vocabulary_size(folder / TOKENIZER) == tokenizer.get_vocab_size() > VOCABULARY / 4


def test_without_the_package_the_error_names_the_extra(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(PackageMissing, match=r"pip install 'twinspire\[tokens\]'"):
        vocabulary_size(folder / TOKENIZER)


def test_tokens_need_neither_torch_nor_transformers(folder: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from twinspire.protos.files.tokenizer import open_tokenizer; "
        f"assert open_tokenizer(Path({str(folder / TOKENIZER)!r}), 8)('read a file'); "
        "print([each for each in ('torch', 'transformers', 'huggingface_hub') if each in sys.modules])"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert (found.stdout.strip(), found.stderr) == ("[]", "")
