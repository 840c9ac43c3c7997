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


def text_is_required(features: Mapping[str, FeatureSpec]) -> bool:
    """Whether a query must have a text: where there is one to read and no history instead of it."""
    kinds = {spec.kind for spec in features.values()}
    return "text" in kinds and "history" not in kinds


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


class QueryForm:
    """What each part of a query fills in one query tower; worked out once, for every query pays for it.

    Args:
        features: of the query tower.
    """

    def __init__(self, features: Mapping[str, FeatureSpec]) -> None:
        self.features = dict(features)
        self.text = _slot(features, TextFeature, "text")
        self.history = _slot(features, HistoryFeature, "history")
        self.blank: dict[str, Value | None] = {
            name: "" if isinstance(spec, TextFeature) else None for name, spec in features.items()
        }
        texts = [name for name, spec in features.items() if isinstance(spec, TextFeature)]
        self.needs_text = text_is_required(features)
        self._required = texts if self.needs_text else []
        self._only_text = self.text if self.needs_text and len(features) == 1 else None

    def values(self, query: Query, name: str) -> dict[str, Value | None]:
        """Feature name -> raw value, one for each feature of the query tower, as `blank` where absent.

        Args:
            query: one without an `item_id`.
            name: what an error calls the query, such as `queries[3]`.

        Raises:
            InvalidInput: the query does not fit the tower; the field begins with `name`.
        """
        if self._only_text and query.text is not None and not query.history and not query.features:
            return {self._only_text: query.text}  # as most are
        given: dict[str, Value] = {}
        if query.text is not None:
            given[self._found(self.text, f"{name}.text")] = query.text
        if query.history:
            given[self._found(self.history, f"{name}.history")] = list(query.history)
        for feature, value in query.features.items():
            given[feature] = self._checked(feature, value, given, name)
        for feature in self._required:
            if feature not in given:
                field_name = f"{name}.text" if feature == self.text else f"{name}.features.{feature}"
                raise InvalidInput(field_name, "required by this bundle's query tower, but missing")
        return {**self.blank, **given}

    def _found(self, slot: str | None, field_name: str) -> str:
        if slot is None:
            kind = field_name.rpartition(".")[2]
            raise InvalidInput(field_name, f"no {kind} feature for it; {_known(self.features)}")
        return slot

    def _checked(self, feature: str, value: Value, given: Mapping[str, Value], name: str) -> Value:
        field_name = f"{name}.features.{feature}"
        if feature not in self.features:
            raise InvalidInput(field_name, f"unknown feature; {_known(self.features)}")
        spec = self.features[feature]
        if feature in given:
            raise InvalidInput(field_name, f"given twice, here and in {name}.{spec.kind}")
        if isinstance(value, float) and math.isnan(value):  # which inside a tower would mean "absent"
            raise InvalidInput(field_name, "expected a number, got NaN; leave it out where it is unknown")
        several = isinstance(spec, HistoryFeature) or (isinstance(spec, CategoryFeature) and spec.multi)
        return list(value) if several and not isinstance(value, str | float | int) else value


def _slot(features: Mapping[str, FeatureSpec], kind: type[FeatureSpec], name: str) -> str | None:
    found = [feature for feature, spec in features.items() if isinstance(spec, kind)]
    if name in found:
        return name
    return found[0] if len(found) == 1 else None


def _known(features: Mapping[str, FeatureSpec]) -> str:
    return "the query tower takes " + ", ".join(
        f"{name} ({spec.kind})" for name, spec in sorted(features.items())
    )
