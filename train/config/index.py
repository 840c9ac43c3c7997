"""`[index]`: the search index, and what the tuner may choose."""

from dataclasses import dataclass, field
from typing import Any, Literal

from protos.bundle import EXACT, HNSW, INDEX_KINDS, MILVUS
from train.config.checks import at_least, refuse_unused

MILVUS_TYPES = ("HNSW", "FLAT")  # as `protos/vector_databases/milvus.py` names them


@dataclass(frozen=True)
class IndexConfig:
    """An HNSW graph (Malkov and Yashunin 2018), or exact search where it is about as fast.

    The tuner keeps the values that are set. It measures the others and takes those with the shortest query.

    Args:
        m: links of a node; 0 leaves it to the tuner.
        ef_construction: width of the search while the graph is built; 0 leaves it to the tuner.
        recall_target: ef_search is the smallest that reaches this recall@k against exact search.
        sample: items on which graphs with different m and ef_construction are compared.
        search: `auto` takes exact search for up to 2,097,152 coordinates (items x dimensions), such as 32,768
            items of 64, and where a graph is no faster or misses the target; `graph` and `exact` decide it.
        k: neighbours at which recall is measured.
        seed: of the graph's levels and of the samples.
        threads: threads of the build; 0 takes OMP_NUM_THREADS, or all cores where it is not set. With 1
            thread, and m and ef_construction set, the graph is reproducible byte for byte. The tuner's own
            choice depends on measured times.
        kind: one of `INDEX_KINDS`; `hnsw` includes exact search. `milvus` is a collection on the server that
            the variable TWINSPIRE_MILVUS_URI names, with m 16 and ef_construction 200 where they are not set.
        options: parameters of another kind. Of `milvus`: `type`, which is "HNSW" or "FLAT" (all items are
            compared).
    """

    m: int = 0
    ef_construction: int = 0
    recall_target: float = 0.98
    sample: int = 20_000
    search: Literal["auto", "graph", "exact"] = "auto"
    k: int = 10
    seed: int = 0
    threads: int = 0
    kind: str = HNSW
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.m:
            at_least(2, self, "m")
        if self.ef_construction:
            at_least(1, self, "ef_construction")
        if not 0 < self.recall_target <= 1:
            raise ValueError(f"recall_target: expected above 0 and at most 1, got {self.recall_target}")
        at_least(1000, self, "sample")
        at_least(1, self, "k")
        at_least(0, self, "seed", "threads")
        if self.kind == EXACT:
            raise ValueError('kind: expected "hnsw" for exact search, with search = "exact"; got "exact"')
        if self.kind not in INDEX_KINDS:
            raise ValueError(f"kind: expected one of {', '.join(INDEX_KINDS)}, got {self.kind!r}")
        if self.kind == HNSW and self.options:
            raise ValueError(
                "options: goes with another kind of index; leave it out, it would change nothing"
            )
        if self.kind == MILVUS:
            self._check_milvus()
            return
        swept = not (self.m and self.ef_construction)
        graph_keys = ("m", "ef_construction", "sample")
        conditions = {
            'search = "auto" or "graph"': (self.search != "exact", graph_keys),
            "m or ef_construction left to the tuner": (swept, ("sample",)),
        }
        refuse_unused(self, conditions)

    def _check_milvus(self) -> None:
        unknown = [*{*self.options} - {"type"}]
        if unknown:
            raise ValueError(f"options.{unknown[0]}: expected no other option than type for kind milvus")
        chosen = self.options.get("type", MILVUS_TYPES[0])
        if chosen not in MILVUS_TYPES:
            raise ValueError(f"options.type: expected one of {', '.join(MILVUS_TYPES)}, got {chosen!r}")
        refuse_unused(
            self,
            {
                f'kind = "{HNSW}"': (False, ("sample", "search")),
                'options.type = "HNSW"': (chosen == MILVUS_TYPES[0], ("m", "ef_construction")),
            },
        )
