"""Texts become tokens that match across spellings, in scripts with and without spaces."""

import json

import pytest

from twinspire.protos.lexical import (
    ANALYZERS,
    Analyzer,
    AnalyzerName,
    choose_analyzer,
    english_share,
    unspaced_share,
)
from twinspire.protos.toml_config import parse, to_table

CHARACTERS = ANALYZERS["characters"]
ENGLISH = [
    "Copies a file to another folder, and overwrites it if it is there.",
    "A library for the statistics of the stars",
]
GERMAN = ["Kopiert eine Datei in einen anderen Ordner", "Was will man in einem Haus? Es ist an der Wand."]
CHINESE = ["启动一个指定的活动", "把文件复制到另一个文件夹", "使用 docker 启动容器"]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("复制文件", ["复", "复制", "制", "制文", "文", "文件", "件"]),
        ("用docker启动", ["用", "docker", "启", "启动", "动"]),
        ("ひらカナ", ["ひ", "ひら", "ら", "らカ", "カ", "カナ", "ナ"]),
        ("ﾊﾝ", ["ハ", "ハン", "ン"]),  # half width
        ("กิน", ["กิ", "กิน", "น"]),  # a vowel sign belongs to its letter
        ("ກິນ", ["ກິ", "ກິນ", "ນ"]),
        ("ខ្ញុំ", ["ខ្", "ខ្ញុំ", "ញុំ"]),
        ("문서", ["문", "문서", "서"]),
        ("件", ["件"]),
        ("हिन्दी में", ["हिन्दी", "में"]),  # Python's \w falls apart at the vowel signs
        ("Ｄｏｃｋｅｒ ＩＤ", ["docker", "id"]),
        ("Straße STRASSE", ["strasse", "strasse"]),
        ("", []),
        ("... — !", []),
        ("❤️ 🎉", []),  # with a variation selector, which is a mark without a letter
        ("pandas.read_csv", ["pandas", "read", "csv"]),
        ("__init__ _ __", ["init"]),
        ("readCsvFile", ["read", "csv", "file"]),
        ("HTTPServer2 utf8", ["http", "server2", "utf8"]),
        ("docker启动readCsv", ["docker", "启", "启动", "动", "read", "csv"]),
        ("iPhone NumPy", ["i", "phone", "num", "py"]),
    ],
)
def test_runs_without_spaces_become_characters_and_pairs_and_identifiers_their_parts(
    text: str, expected: list[str]
) -> None:
    assert CHARACTERS.tokens(text) == expected


def test_english_words_become_stems_without_stop_words() -> None:
    english = ANALYZERS["english"]
    assert english.tokens("The copying of files") == english.tokens("copied file") == ["copi", "file"]
    assert english.tokens("复制 the files") == ["复", "复制", "制", "file"]
    assert CHARACTERS.tokens("The files") == ["the", "files"]


def test_words_are_left_whole_for_texts_that_a_segmenter_has_split() -> None:
    assert ANALYZERS["words"].tokens("复制 文件 Files") == ["复制", "文件", "files"]


@pytest.mark.parametrize(
    ("texts", "name"),
    [
        (ENGLISH, "english"),
        (GERMAN, "characters"),
        (CHINESE, "characters"),
        ([*CHINESE * 3, "and"], "characters"),
        ([*ENGLISH, "复制文件"], "english"),
        (["cp -r a b", "tar xf {{file}}"], "characters"),
        ([], "characters"),
        (["", "!"], "characters"),
    ],
)
def test_the_texts_decide_whether_there_are_english_stems(texts: list[str], name: AnalyzerName) -> None:
    assert choose_analyzer(texts) == ANALYZERS[name]


def test_a_long_run_of_chinese_counts_as_more_than_one_word() -> None:
    assert english_share(["the"]) == 1
    assert english_share(["the 把文件复制到另一个文件夹"]) == pytest.approx(1 / (1 + 12 / 2))


@pytest.mark.parametrize("analyzer", [*ANALYZERS.values(), Analyzer("english", (2, 3))])
def test_an_analyser_survives_json(analyzer: Analyzer) -> None:
    assert parse(json.loads(json.dumps(to_table(analyzer))), Analyzer) == analyzer


@pytest.mark.parametrize("ngrams", [(0,), (9,), (2, 2)])
def test_impossible_ngrams_are_refused(ngrams: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="ngrams: expected different numbers from 1 to 8"):
        Analyzer(ngrams=ngrams)


def test_the_share_of_letters_in_scripts_without_spaces() -> None:
    assert unspaced_share(["read a file", "Größe 12"]) == 0
    assert unspaced_share(["搜索引擎", "ใคร"]) == 1
    assert unspaced_share(["搜索 ab", "使用ab"]) == 0.5
    assert unspaced_share(["", "... 🐍"]) == 0
