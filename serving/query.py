"""What is asked: a query, and what it gives to each feature of the query tower."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from protos.errors import InvalidInput
from protos.features import CategoryFeature, FeatureSpec, HistoryFeature, TextFeature

Value = str | float | Sequence[str]


@dataclass(frozen=True)
class Query:
    """One query.

    Args:
        text: fills the query tower's only text feature, or the one named `text`.
        history: item ids, oldest first; fills the query tower's only history feature, or the one
            named `history`. Ids that the tower does not know are skipped.
        features: values of the query tower's features, by name; one that is named nowhere is absent.
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
    return _slot(features, TextFeature, "text")


def history_feature(features: Mapping[str, FeatureSpec]) -> str | None:
    """The feature that `Query.history` fills, if the tower has one."""
    return _slot(features, HistoryFeature, "history")


def text_is_required(features: Mapping[str, FeatureSpec]) -> bool:
    """Whether a query must have a text: where there is one to read and no history instead of it."""
    kinds = {spec.kind for spec in features.values()}
    return "text" in kinds and "history" not in kinds


def blank_values(features: Mapping[str, FeatureSpec]) -> dict[str, Value | None]:
    """The raw values of a query that says nothing; an absent text is an empty one."""
    return {name: "" if isinstance(spec, TextFeature) else None for name, spec in features.items()}


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
    """Feature name -> raw value, one for each feature of the query tower, as `blank_values` where absent.

    Args:
        query: one without an `item_id`.
        features: of the query tower.
        name: what an error calls the query, such as `queries[3]`.

    Raises:
        InvalidInput: the query does not fit the tower; the field begins with `name`.
    """
    given: dict[str, Value] = {}
    slots = {"text": text_feature(features), "history": history_feature(features)}
    if query.text is not None:
        given[_found(slots["text"], "text", features, name)] = query.text
    if query.history:
        given[_found(slots["history"], "history", features, name)] = list(query.history)
    for feature, value in query.features.items():
        field_name = f"{name}.features.{feature}"
        if feature not in features:
            raise InvalidInput(field_name, f"unknown feature; {_known(features)}")
        if feature in given:
            raise InvalidInput(field_name, f"given twice, here and in {name}.{features[feature].kind}")
        given[feature] = _checked(value, features[feature], field_name)
    for feature, spec in features.items() if text_is_required(features) else ():
        if isinstance(spec, TextFeature) and feature not in given:
            field_name = f"{name}.text" if feature == slots["text"] else f"{name}.features.{feature}"
            raise InvalidInput(field_name, "required by this bundle's query tower, but missing")
    return {**blank_values(features), **given}


def _slot(features: Mapping[str, FeatureSpec], kind: type[FeatureSpec], name: str) -> str | None:
    found = [feature for feature, spec in features.items() if isinstance(spec, kind)]
    if name in found:
        return name
    return found[0] if len(found) == 1 else None


def _found(slot: str | None, kind: str, features: Mapping[str, FeatureSpec], name: str) -> str:
    if slot is None:
        raise InvalidInput(f"{name}.{kind}", f"no {kind} feature for it; {_known(features)}")
    return slot


def _checked(value: Value, spec: FeatureSpec, field_name: str) -> Value:
    if isinstance(value, float) and math.isnan(value):  # which inside a tower would mean "absent"
        raise InvalidInput(field_name, "expected a number, got NaN; leave it out where it is unknown")
    several = isinstance(spec, HistoryFeature) or (isinstance(spec, CategoryFeature) and spec.multi)
    return list(value) if several and not isinstance(value, str | float | int) else value


def _known(features: Mapping[str, FeatureSpec]) -> str:
    return "the query tower takes " + ", ".join(
        f"{name} ({spec.kind})" for name, spec in sorted(features.items())
    )
