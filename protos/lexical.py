"""Texts as tokens, for lexical matching such as BM25. Items and queries need the same analyser.

    analyzer = choose_analyzer(some_texts)
    analyzer.tokens("Reads 文件 as CSV")  # ["read", "文", "文件", "件", "csv"]

A token is a word where spaces part words. A script that is written without spaces, such as Chinese, would
give one token a sentence; its runs become character 1- and 2-grams, as in Lucene's CJKAnalyzer. A text may
mix both. An identifier gives its parts: `read_csv` and `readCSV` both are `read` and `csv`.
"""

import functools
import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from twinspire.protos.toml_config import OPTIONAL

AnalyzerName = Literal["words", "english", "characters"]
WeightingName = Literal["bm25", "tfidf"]
DEFAULT_K1, DEFAULT_B = 1.2, 0.75  # those of Lucene
ENGLISH_SHARE = 0.05  # of all words; from this share of stop words on, texts count as English
STOP_WORDS = frozenset(  # those of Lucene's EnglishAnalyzer
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these "
    "they this to was will with".split()
)
# Those that hardly any other language has: "in" is German, too, "an" and "is" are Dutch, "no" is Spanish.
_ENGLISH_ONLY = frozenset("and are be by for not of that the their these they this to with".split())
SPLIT_INTO_CHARACTERS = (  # code points, first and last: scripts without spaces, and Hangul
    (0x0E00, 0x0EFF),  # Thai, Lao
    (0x1000, 0x109F),  # Myanmar
    (0x1100, 0x11FF),  # Hangul has spaces, but its words carry particles; CJKAnalyzer has 2-grams of it, too
    (0x1780, 0x17FF),  # Khmer
    (0x1950, 0x19DF),  # Tai Le, New Tai Lue
    (0x1A20, 0x1AAF),  # Tai Tham
    (0x1B00, 0x1B7F),  # Balinese
    (0x3005, 0x3007),  # Han: iteration mark, zero
    (0x3021, 0x3035),  # Han: numerals; Kana: repeat marks
    (0x3038, 0x303C),
    (0x3041, 0x318E),  # Hiragana, Katakana, Bopomofo, Hangul
    (0x31A0, 0x31BF),  # Bopomofo
    (0x31F0, 0x31FF),  # Katakana
    (0x3400, 0x4DBF),  # Han
    (0x4E00, 0x9FFF),
    (0xA960, 0xA97F),  # Hangul
    (0xA980, 0xA9FF),  # Javanese, Myanmar
    (0xAA60, 0xAADF),  # Myanmar, Tai Viet
    (0xAC00, 0xD7FF),  # Hangul
    (0xF900, 0xFAFF),  # Han
    (0x1AFF0, 0x1B16F),  # Kana
    (0x20000, 0x323AF),  # Han
)
_ASCII_RUNS = re.sub(r"\W", " ", "".join(map(chr, range(128))))  # each character, or a space between runs
_JOINERS = (0x200C, 0x200D)  # inside words of Persian and of Indic scripts
# The ends of an identifier's parts: underscores, and before capitals, as in `readCsv` and `CSVReader`.
_PART_ENDS = re.compile(r"_+|(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")


@dataclass(frozen=True)
class Analyzer:
    """How a text becomes tokens; `protos.toml_config.to_table` and `parse` convert it to and from JSON.

    Args:
        language: `english` replaces words by their stems (Snowball's Porter 2) and drops stop words.
        ngrams: lengths of the character n-grams of a run in a script without spaces; empty leaves the run
            one token. A character is a letter with the marks that follow it.
        in_words: words of all other scripts become such n-grams, too.
    """

    language: Literal["", "english"] = ""
    ngrams: tuple[int, ...] = (1, 2)
    in_words: bool = field(default=False, metadata=OPTIONAL)

    def __post_init__(self) -> None:
        if any(not 1 <= length <= 8 for length in self.ngrams) or len({*self.ngrams}) < len(self.ngrams):
            raise ValueError(f"ngrams: expected different numbers from 1 to 8, got {list(self.ngrams)}")
        if self.in_words and (self.language or not self.ngrams):
            raise ValueError("in_words: expected ngrams, and no language, whose stems are no n-grams")

    def tokens(self, text: str) -> list[str]:
        """The tokens of one text, in order, repeated ones included."""
        of_run = self.of_run()
        return [token for run in runs_of(text) for token in of_run(run)]

    def __str__(self) -> str:
        words = "English stems without stop words" if self.language else "words"
        lengths = " and ".join(f"{length}-" for length in self.ngrams)
        if self.in_words:
            return f"character {lengths}grams of words, and of scripts without spaces"
        runs = f"character {lengths}grams" if self.ngrams else "whole runs"
        return f"{words}; {runs} of scripts without spaces"

    def of_run(self) -> Callable[[str], list[str]]:
        """The function from a run of letters, marks, digits and underscores to its tokens."""
        stem = _english_stem() if self.language else None

        def of_word(word: str) -> list[str]:
            word = _composed(word.casefold())
            if self.in_words:
                return _ngrams(word, self.ngrams)
            if stem is None:
                return [word]
            return [] if word in STOP_WORDS else [stem(word)]

        def of_identifier(run: str) -> list[str]:
            return [token for part in _PART_ENDS.split(run) if part for token in of_word(part)]

        def of_run(run: str) -> list[str]:
            if run.isascii():
                return of_identifier(run)
            tokens: list[str] = []
            for word, unspaced in _parts().findall(run):
                if unspaced:
                    tokens += _ngrams(unspaced, self.ngrams) if self.ngrams else [unspaced]
                else:
                    tokens += of_identifier(word)
            return tokens

        return of_run


ANALYZERS: dict[AnalyzerName, Analyzer] = {
    "words": Analyzer(ngrams=()),  # for texts in which a segmenter has put spaces between words
    "english": Analyzer("english"),
    "characters": Analyzer(),
}


@dataclass(frozen=True)
class Weighting:
    """How the terms that a query shares with a text become a score (`protos/hybrid/term_weights.py`).

    Args:
        k1: of BM25: how much a repeated term counts, above 0.
        b: of BM25: how much the length of a text counts, 0 to 1.
    """

    kind: WeightingName = "bm25"
    k1: float = DEFAULT_K1
    b: float = DEFAULT_B


def choose_analyzer(texts: Iterable[str]) -> Analyzer:
    """The analyser that suits some texts: `english` where they are English, else `characters`.

    Texts are English if at least `ENGLISH_SHARE` of their words are stop words that hardly any other language
    has. Other languages are not stemmed. Scripts without spaces are always split into n-grams.
    """
    return ANALYZERS["english" if english_share(texts) >= ENGLISH_SHARE else "characters"]


def english_share(texts: Iterable[str]) -> float:
    """The share of English stop words among the words of some texts; 0 if they hold none.

    A run in a script without spaces counts as one word for every two characters.
    """
    words = english = 0.0
    for run, times in Counter(run for text in texts for run in runs_of(text)).items():
        for word, unspaced in [(run, "")] if run.isascii() else _parts().findall(run):
            words += times * (len(unspaced) / 2 if unspaced else 1)
            english += times * (word.lower() in _ENGLISH_ONLY)
    return english / words if words else 0.0


def unspaced_share(texts: Iterable[str]) -> float:
    """The share of letters and digits of some texts that belong to scripts without spaces; 0 without any."""
    letters = unspaced = 0
    for text in texts:
        for run in runs_of(text):
            letters += len(run)
            if not run.isascii():
                unspaced += sum(len(characters) for _, characters in _parts().findall(run))
    return unspaced / letters if letters else 0.0


def runs_of(text: str) -> list[str]:
    """The runs of letters, marks, digits and underscores in a text."""
    return text.translate(_ASCII_RUNS).split() if text.isascii() else _runs().findall(_composed(text))


def _composed(text: str) -> str:
    return text if text.isascii() else unicodedata.normalize("NFKC", text)


def _ngrams(run: str, lengths: Sequence[int]) -> list[str]:
    characters = _characters().findall(run)
    return [
        "".join(characters[at : at + length])
        for at in range(len(characters))
        for length in lengths
        if at + length <= len(characters)
    ]


def _english_stem() -> Callable[[str], str]:
    import Stemmer  # a client does without it

    stem: Callable[[str], str] = Stemmer.Stemmer("english").stemWord
    return stem


@functools.cache
def _runs() -> re.Pattern[str]:
    return re.compile(rf"\w[\w{_marks()}]*")


@functools.cache
def _parts() -> re.Pattern[str]:
    """The parts of a run: words, and runs in scripts without spaces."""
    marks, unspaced = _marks(), _class(SPLIT_INTO_CHARACTERS)
    return re.compile(rf"((?:(?![{unspaced}])[\w{marks}])+)|([{unspaced}][{unspaced}{marks}]*)")


@functools.cache
def _characters() -> re.Pattern[str]:
    return re.compile(rf".[{_marks()}]*", re.DOTALL)


@functools.cache
def _marks() -> str:
    """The combining marks and joiners, for a class of a regular expression.

    Python's word characters lack them, so that words of Hindi would fall apart at their vowels.
    """
    marks = [code for code in range(0x300, sys.maxunicode + 1) if unicodedata.category(chr(code))[0] == "M"]
    return _class((code, code) for code in (*marks, *_JOINERS))


def _class(ranges: Iterable[tuple[int, int]]) -> str:
    return "".join(rf"\U{first:08x}-\U{last:08x}" for first, last in ranges)
