"""Tags and metrics in MLflow that one stage writes and another reads."""

BUNDLE_VERSION = "bundle_version"  # tag of a model version: of the bundle that it holds

STAGE = "twinspire.stage"  # tag of a run: what it is of, such as a training
SHADOW = "shadow"  # that stage of a run in which a challenger was asked beside the champion

# Tags of such a run: versions of both bundles.
SHADOW_CHALLENGER = "twinspire.challenger"
SHADOW_CHAMPION = "twinspire.champion"
# Metrics of such a run: how many queries, means over those, and answers without an item.
SHADOW_QUERIES = "shadow_queries"
SHADOW_OVERLAP = "shadow_overlap_at_10"
SHADOW_SCORE_SHIFT = "shadow_score_shift"
SHADOW_LATENCY_RATIO = "shadow_latency_ratio"
SHADOW_EMPTY = "shadow_empty"
