"""What is asked: a query, and what it gives to each feature of the query tower."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from protos.errors import InvalidInput
from protos.features import CategoryFeature, FeatureSpec, TextFeature

Value = str | float | Sequence[str]


@dataclass(frozen=True)
class Query:
    """One query.

    Args:
        text: fills the query tower's only text feature, or the one named `text`.
        history: item ids, oldest first; fills the query tower's history feature.
        features: values of other features of the query tower, by name; a category or a number that
            is not named here is absent.
        item_id: "more like this": the item's own vector is the query; nothing else may be given.
    """

    text: str | None = None
    history: tuple[str, ...] = ()
    features: Mapping[str, Value] = field(default_factory=dict)
    item_id: str | None = None


def example_query(example: Mapping[str, Value | None]) -> Query:
    """One of the manifest's examples, feature name -> raw value, as a query."""
    return Query(features={name: value for name, value in example.items() if value is not None})


def text_feature(features: Mapping[str, FeatureSpec]) -> str | None:
    """The feature that `Query.text` fills, if the tower has one."""
    texts = [name for name, spec in features.items() if isinstance(spec, TextFeature)]
    if "text" in texts:
        return "text"
    return texts[0] if len(texts) == 1 else None


def check_item_query(query: Query, name: str) -> None:
    """Refuse an `item_id` that comes with anything else.

    Raises:
        InvalidInput: text, history or features are given too.
    """
    if query.text is not None:
        raise InvalidInput(f"{name}.text", "expected either a text or an item_id, got both")
    if query.history:
        raise InvalidInput(f"{name}.history", "expected either a history or an item_id, got both")
    if query.features:
        raise InvalidInput(f"{name}.features", "expected either features or an item_id, got both")


def tower_values(query: Query, features: Mapping[str, FeatureSpec], name: str) -> dict[str, Value | None]:
    """Feature name -> raw value, one for each feature of the query tower, None where absent.

    Args:
        query: one without an `item_id`.
        features: of the query tower.
        name: what an error calls the query, such as `queries[3]`.

    Raises:
        InvalidInput: the query does not fit the tower; the field begins with `name`.
    """
    if query.history:  # no kind of feature takes one yet
        raise InvalidInput(f"{name}.history", "this bundle's query tower takes no history")
    values: dict[str, Value | None] = dict.fromkeys(features)
    slot = text_feature(features)
    if query.text is not None:
        if slot is None:
            raise InvalidInput(f"{name}.text", f"no text feature for it; {_known(features)}")
        values[slot] = query.text
    for feature, value in query.features.items():
        field_name = f"{name}.features.{feature}"
        if feature not in features:
            raise InvalidInput(field_name, f"unknown feature; {_known(features)}")
        if values[feature] is not None:
            raise InvalidInput(field_name, f"given twice, here and in {name}.text")
        values[feature] = _checked(value, features[feature], field_name)
    for feature, spec in features.items():
        if isinstance(spec, TextFeature) and values[feature] is None:
            field_name = f"{name}.text" if feature == slot else f"{name}.features.{feature}"
            raise InvalidInput(field_name, "required by this bundle's query tower, but missing")
    return values


def _checked(value: Value, spec: FeatureSpec, field_name: str) -> Value:
    if isinstance(value, float) and math.isnan(value):  # which inside a tower would mean "absent"
        raise InvalidInput(field_name, "expected a number, got NaN; leave it out where it is unknown")
    if isinstance(spec, CategoryFeature) and spec.multi and not isinstance(value, str | float | int):
        return list(value)
    return value


def _known(features: Mapping[str, FeatureSpec]) -> str:
    return "the query tower takes " + ", ".join(
        f"{name} ({spec.kind})" for name, spec in sorted(features.items())
    )
