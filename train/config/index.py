"""`[index]`: the search index."""

from dataclasses import dataclass, field
from typing import Any, Literal

from twinspire.protos.bundle import EXACT, HNSW, INDEX_KINDS
from twinspire.train.config.checks import at_least, refuse_unused

TYPES = ("HNSW", "FLAT")  # as `protos/vector_databases/database.py` names them


@dataclass(frozen=True)
class IndexConfig:
    """An HNSW graph (Malkov and Yashunin 2018), or exact search where it is about as fast.

    Args:
        m: links of a node.
        ef_construction: width of the search while the graph is built.
        recall_target: ef_search is the smallest that reaches this recall@k against exact search.
        search: `auto` takes exact search for up to 2,097,152 coordinates (items x dimensions), such as 32,768
            items of 64, and where the graph is no faster or misses the target; `graph` and `exact` decide
            it, but a search whose width is at least 1/64 of the items compares all.
        k: neighbours at which recall is measured.
        seed: of the graph's levels, and of the draw of at most 2,000 queries that widths are measured on.
        threads: threads of the build; 0 takes OMP_NUM_THREADS, or all cores where it is not set. With 1
            thread the graph is reproducible byte for byte.
        kind: one of `INDEX_KINDS`; `hnsw` includes exact search. Others are a collection on the server of a
            vector database that a variable names: TWINSPIRE_MILVUS_URI of `milvus`,
            TWINSPIRE_PGVECTOR_URI of `pgvector`.
        options: parameters of another kind: `type`, which is "HNSW" or "FLAT" (all items are compared).
    """

    m: int = 32
    ef_construction: int = 400
    recall_target: float = 0.98
    search: Literal["auto", "graph", "exact"] = "auto"
    k: int = 10
    seed: int = 0
    threads: int = 0
    kind: str = HNSW
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        at_least(2, self, "m")
        at_least(1, self, "ef_construction")
        if not 0 < self.recall_target <= 1:
            raise ValueError(f"recall_target: expected above 0 and at most 1, got {self.recall_target}")
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
        graph_keys = ("m", "ef_construction")
        if self.kind == HNSW:
            refuse_unused(self, {'search = "auto" or "graph"': (self.search != "exact", graph_keys)})
            return
        unknown = [*{*self.options} - {"type"}]
        if unknown:
            raise ValueError(f"options.{unknown[0]}: expected no other option than type for kind {self.kind}")
        chosen = self.options.get("type", TYPES[0])
        if chosen not in TYPES:
            raise ValueError(f"options.type: expected one of {', '.join(TYPES)}, got {chosen!r}")
        refuse_unused(
            self,
            {
                f'kind = "{HNSW}"': (False, ("search",)),
                'options.type = "HNSW"': (chosen == TYPES[0], graph_keys),
            },
        )
