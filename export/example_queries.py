"""The example queries of a bundle as values that its query tower reads."""

from typing import Any

from twinspire.protos.bundle import Manifest
from twinspire.protos.features import TextFeature


def example_queries(manifest: Manifest) -> dict[str, list[Any]]:
    """Feature name -> raw values of the examples; blank where an example lacks the feature.

    A bundle without examples has a single query, which is blank.
    """
    examples = manifest.examples or ({},)
    return {
        name: [each.get(name, "" if isinstance(spec, TextFeature) else None) for each in examples]
        for name, spec in manifest.schema.query.items()
    }
