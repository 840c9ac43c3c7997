"""Rules and alerts, checked by promtool, and the metrics that rules and dashboard name."""

import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.helpers.serving import prometheus
from twinspire.serving.observability.metrics import METRICS, Kind

MISSING = prometheus.missing()
promtool = pytest.mark.skipif(bool(MISSING), reason=MISSING)
RULES = sorted((prometheus.CONFIG / "rules").glob("*.yml"))
TESTS = Path(__file__).with_name("alerts_test.yml")
# Of the gateway; the durations are shown by their buckets alone.
GATEWAY = {name for name in prometheus.GATEWAY_METRICS if not name.endswith(("_count", "_sum"))}
SHOWN = {Kind.COUNTER: ("_total",), Kind.HISTOGRAM: ("_bucket", "_count", "_sum")}


def rules(key: str) -> list[dict[str, Any]]:
    """All rules that record, or all that alert."""
    groups = [group for path in RULES for group in yaml.safe_load(path.read_text())["groups"]]
    return [rule for group in groups for rule in group["rules"] if key in rule]


@promtool
def test_prometheus_accepts_the_configuration_and_the_rules() -> None:
    for command in (["config", str(prometheus.CONFIG / "prometheus.yml")], ["rules", *map(str, RULES)]):
        checked = subprocess.run(["promtool", "check", *command], capture_output=True, text=True)
        assert checked.returncode == 0, checked.stdout + checked.stderr


@promtool
def test_each_alert_fires_when_it_should_and_none_when_all_is_well() -> None:
    tested = subprocess.run(["promtool", "test", "rules", str(TESTS)], capture_output=True, text=True)
    assert tested.returncode == 0, tested.stdout + tested.stderr


def test_each_alert_has_a_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    fires: set[str] = set()
    silent: set[str] = set()
    for test in yaml.safe_load(TESTS.read_text())["tests"]:
        for each in test["alert_rule_test"]:
            (fires if each["exp_alerts"] else silent).add(each["alertname"])
    names = [rule["alert"] for rule in rules("alert")]
    assert len(set(names)) == len(names)
    assert fires == silent == set(names)


def test_rules_and_dashboard_name_only_metrics_and_labels_that_exist() -> None:
    labels = {
        f"{metric.name}{suffix}": set(metric.labels) | ({"le"} if metric.kind is Kind.HISTOGRAM else set())
        for metric in METRICS
        for suffix in SHOWN.get(metric.kind, ("",))
    }
    labels |= prometheus.GATEWAY_METRICS
    recorded = {rule["record"] for rule in rules("record")}
    queries = [rule["expr"] for rule in (*rules("record"), *rules("alert"))]
    for query in (*queries, *prometheus.dashboard_queries().values()):
        for name, selector in re.findall(r"\b(twinspire_\w+)(?:\{([^}]*)\})?", query):
            if re.search(rf":{name}:", query):
                continue  # a part of the name of a recorded metric
            assert name in labels, query
            used = set(re.findall(r"(\w+)\s*(?:=|!)", selector or ""))
            assert used <= labels[name] | {"job", "instance"}, query
        for name in re.findall(r"\w+:twinspire_\w+:\w+", query):
            assert name in recorded, query


def test_the_dashboard_shows_every_metric() -> None:
    recorded = [rule["expr"] for rule in rules("record")]
    queries = " ".join((*prometheus.dashboard_queries().values(), *recorded))
    names = [*(metric.name for metric in METRICS), *GATEWAY]
    missing = [name for name in names if not re.search(rf"\b{name}", queries)]
    assert missing == []


def test_the_panels_of_the_dashboard_do_not_overlap() -> None:
    board = json.loads(prometheus.DASHBOARD.read_text())
    taken: dict[tuple[int, int], str] = {}
    for panel in board["panels"]:
        place = panel["gridPos"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert x < 24
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
