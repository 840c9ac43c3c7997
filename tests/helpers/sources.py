"""Data sources as tests open them."""

import io
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from twinspire.protos.features import FeatureSpec
from twinspire.train.config.data import FilterConfig
from twinspire.train.data.source import SourceContext


def source_context(
    base: Path,
    query: Mapping[str, FeatureSpec] | None = None,
    item: Mapping[str, FeatureSpec] | None = None,
    filter: FilterConfig | None = None,
) -> SourceContext:
    """The context of a source with its files in `base`."""
    console = Console(file=io.StringIO())
    return SourceContext(
        base, base / "cache", query or {}, item or {}, filter or FilterConfig(), False, console
    )
