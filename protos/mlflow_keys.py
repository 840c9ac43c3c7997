"""Tags and metrics in MLflow that one stage writes and another reads."""

BUNDLE_VERSION = "bundle_version"  # tag of a model version: the version of its bundle

STAGE = "twinspire.stage"  # tag of a run: the stage that made it, such as training
SHADOW = "shadow"  # value of `STAGE`: a run in which a challenger shadowed the champion

# Tags of a shadow run: bundle versions.
SHADOW_CHALLENGER = "twinspire.challenger"
SHADOW_CHAMPION = "twinspire.champion"
# Metrics of a shadow run: number of queries, means over them, and answers without an item.
SHADOW_QUERIES = "shadow_queries"
SHADOW_OVERLAP = "shadow_overlap_at_10"
SHADOW_SCORE_SHIFT = "shadow_score_shift"
SHADOW_LATENCY_RATIO = "shadow_latency_ratio"
SHADOW_EMPTY = "shadow_empty"
