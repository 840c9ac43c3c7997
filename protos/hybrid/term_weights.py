"""How terms weigh in texts and in queries: BM25, and the cosine of TF-IDF, in the same posting lists.

A text's score is a sum over the terms that a query shares with it, of the term's factor in the query and its
weight in the text. A weight is at most the idf of the term, and the highest score that a query can get is its
`upper_bound`, by which the service divides.

           factor          weight                                                       bound
    bm25   tf              idf * tf / (tf + k1 * (1 - b + b * length / mean))           sum of factor * idf
    tfidf  1 + log(tf)     idf * [(1 + log(tf)) * idf / norm of these in the text]      norm of factor * idf

BM25 is that of Robertson and Zaragoza 2009, equation 3.15, without a constant factor, with the idf of Lucene.
The weights of TF-IDF are the scheme `ltc.ltc` (Manning et al. 2008, section 6.4.3), with the smoothed idf of
scikit-learn.
"""

from typing import Any

import numpy as np
import numpy.typing as npt

from twinspire.protos.bundle import Hybrid
from twinspire.protos.lexical import Weighting, WeightingName

Floats = npt.NDArray[np.float32]


def weighting_of(hybrid: Hybrid) -> Weighting:
    """The weighting of a bundle's lexical index."""
    return Weighting(hybrid.scoring, hybrid.k1, hybrid.b)


def inverse_frequency(kind: WeightingName, texts: Any, count: int) -> npt.NDArray[np.float64]:
    """The inverse document frequency of terms, above 0.

    Args:
        texts: (V,), how many texts hold each term.
        count: of all texts.
    """
    if kind == "tfidf":
        return np.asarray(np.log((1 + count) / (1 + texts)) + 1)
    return np.asarray(np.log1p((count - texts + 0.5) / (texts + 0.5)))


def text_weights(weighting: Weighting, idf: Any, counts: Any, text: Any, relative_length: Any) -> Floats:
    """The weight of each of P terms in its text, float32 (P,).

    Args:
        idf: (P,), of the terms.
        counts: (P,), how often the text holds each, at least 1.
        text: (P,), the number of the text, below T.
        relative_length: (T,), terms of each text, over the mean of all texts; of BM25.
    """
    if weighting.kind == "tfidf":
        values = (1 + np.log(counts)) * idf
        norms = np.sqrt(np.bincount(text, values**2, len(relative_length)))
        return np.asarray(idf * (values / norms[text]), np.float32)
    saturation = weighting.k1 * (1 - weighting.b + weighting.b * relative_length)
    return np.asarray(idf * (counts / (counts + saturation[text])), np.float32)


def query_factors(kind: WeightingName, times: Any) -> Any:
    """What terms count that a query holds so often, at least once each."""
    return 1 + np.log(times) if kind == "tfidf" else times


def upper_bound(kind: WeightingName, factors: Any, idf: Any) -> np.float32:
    """The lexical score that no text exceeds, of the factors and the idf of a query's distinct terms."""
    most = np.asarray(factors, np.float64) * idf
    return np.float32(np.sqrt((most**2).sum()) if kind == "tfidf" else most.sum())
