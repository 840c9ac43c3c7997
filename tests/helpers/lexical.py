"""A lexical index made by hand, in plain Python, and what it should find."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from twinspire.protos.bundle import Hybrid
from twinspire.protos.hybrid.lexical_index import Postings, term_hash, whole_query
from twinspire.protos.inputs.query_words import query_key
from twinspire.protos.lexical import Analyzer

HYBRID = Hybrid(
    Analyzer(),
    k1=1.2,
    b=0.5,
    mean_length=3.0,
    weight=0.4,
    dense_candidates=20,
    lexical_candidates=15,
    most_postings=200,
    most_terms=32,
)


def weights_of_texts(texts: Sequence[str], hybrid: Hybrid) -> tuple[dict[str, float], list[dict[str, float]]]:
    """The idf of each word, and for each text the weight of each of its words."""
    tokens = [hybrid.analyzer.tokens(text) for text in texts]
    held = Counter(word for each in tokens for word in set(each))
    idf = {word: math.log1p((len(texts) - count + 0.5) / (count + 0.5)) for word, count in held.items()}

    def weights(words: list[str]) -> dict[str, float]:
        rest = hybrid.k1 * (1 - hybrid.b + hybrid.b * len(words) / hybrid.mean_length)
        return {word: idf[word] * times / (times + rest) for word, times in Counter(words).items()}

    return idf, [weights(each) for each in tokens]


def postings_of_texts(
    texts: Sequence[str], hybrid: Hybrid, priors: Mapping[str, Mapping[int, float]] = MappingProxyType({})
) -> Postings:
    """The lexical index of some texts.

    Args:
        priors: query -> row of an item -> its prior.
    """
    idf, weights = weights_of_texts(texts, hybrid)
    clicks = {whole_query(query_key(query)): dict(sorted(each.items())) for query, each in priors.items()}
    words = sorted([*idf, *clicks], key=term_hash)
    held = {word: {row: each[word] for row, each in enumerate(weights) if word in each} for word in idf}
    held |= clicks
    return Postings(
        np.array([term_hash(word) for word in words], np.uint64),
        np.array([idf.get(word, 0) for word in words], np.float32),
        np.cumsum([0, *(len(held[word]) for word in words)], dtype=np.int64),
        np.array([row for word in words for row in held[word]], np.int32),
        np.array([weight for word in words for weight in held[word].values()], np.float32),
        len(texts),
    )


def lexical_score(idf: Mapping[str, float], weights: Mapping[str, float], query: Sequence[str]) -> float:
    """BM25 of one text for the words of a query, over its upper bound."""
    known = [word for word in query if word in idf]
    bound = sum(idf[word] for word in known)
    return sum(weights.get(word, 0.0) for word in known) / bound if bound else 0.0
