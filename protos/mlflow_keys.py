"""Tags and metrics in MLflow that one stage writes and another reads, and addresses of pages of its UI."""

import os
from urllib.parse import urlsplit

UI_ADDRESS = "http://127.0.0.1:5000"  # of `make ui`

BUNDLE_VERSION = "bundle_version"  # tag of a model version: the version of its bundle
INDEX_KIND = "index_kind"  # tag of a model version: the kind of its index, one of `INDEX_KINDS`

PRETRAINED_MODEL = "pretrained_model"  # tag of a run: the encoder of its towers, its licence and its use
STAGE = "twinspire.stage"  # tag of a run: the stage that made it, such as training
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # error codes of what MLflow does not have
SHADOW = "shadow"  # value of `STAGE`: a run in which a challenger shadowed the champion

# Tags of a shadow run: bundle versions.
SHADOW_CHALLENGER = "twinspire.challenger"
SHADOW_CHAMPION = "twinspire.champion"
# Metrics of a shadow run: number of queries, means over them, and answers without an item.
SHADOW_QUERIES = "shadow/queries"
SHADOW_OVERLAP = "shadow/overlap_at_10"
SHADOW_SCORE_SHIFT = "shadow/score_shift"
SHADOW_LATENCY_RATIO = "shadow/latency_ratio"
SHADOW_EMPTY = "shadow/empty"


def ui_page(path: str) -> str:
    """The address of a page of the MLflow UI, in its view for trained models; by default it shows agents.

    Args:
        path: such as `models/pydocs`.
    """
    return f"{ui_server() or UI_ADDRESS}/#/{path}?workflowType=machine_learning"


def ui_server() -> str:
    """The address of the tracking server that `MLFLOW_TRACKING_URI` names, without a password.

    Empty where the store is not a server: then `make ui` shows it.
    """
    uri = os.environ.get("MLFLOW_TRACKING_URI", "")
    if not uri.startswith(("http://", "https://")):
        return ""
    parts = urlsplit(uri)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl().rstrip("/")


def without_group(name: str) -> str:
    """The name of a shadow's metric in reports: `shadow_queries`, as runs had it before names had groups."""
    return name.replace("/", "_")
