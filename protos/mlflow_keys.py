"""Tags in MLflow that one stage writes and another reads, their lengths, and addresses of pages of its UI."""

import os
from urllib.parse import urlsplit

UI_ADDRESS = "http://127.0.0.1:5000"  # of `make ui`

BUNDLE_VERSION = "bundle_version"  # tag of a model version: the version of its bundle
INDEX_KIND = "index_kind"  # tag of a model version: the kind of its index, one of `INDEX_KINDS`

PRETRAINED_MODEL = "pretrained_model"  # tag of a run: the encoder of its towers, its licence and its use
STAGE = "twinspire.stage"  # tag of a run: the stage that made it, such as training
REASON_LENGTH = 1000  # characters of the reason for a release, which its record and the registry hold
ABSENT = ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE")  # error codes of what MLflow does not have


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
