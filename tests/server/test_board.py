"""Board and alerts read what a running server tells: metrics, labels and their values."""

import json
import re

import httpx
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from drr.loop.policy import StopCause
from server import metrics
from tests.deploy.files import DEPLOY
from tests.deploy.promql import grouped_by, selectors
from tests.server.running import Server

PROMETHEUS_OWN = frozenset({"up"})
"""What Prometheus itself knows of a server."""

BY_PROMETHEUS = frozenset({"instance", "job"})

DOMAINS: dict[tuple[str, str], frozenset[str]] = {
    ("drr_responses_total", "stop_cause"): frozenset(StopCause),
    ("drr_canary_tokens_total", "kind"): frozenset({"full", "would", "probe"}),
    ("drr_canary_right_total", "kind"): frozenset({"full", "lost", "lost_at_most"}),
    ("drr_canary_responses_total", "outcome"): frozenset({"whole", "agreed", "changed", "unread", "dropped"}),
    ("drr_decision_log_rows_total", "outcome"): frozenset({"written", "dropped"}),
}
"""Values that a label may have and that a short test, of a server without canaries and log, does not bring about."""


def expressions() -> list[tuple[str, str]]:
    """Those of board and alerts, each with what it belongs to."""
    board = json.loads((DEPLOY / "grafana" / "drr.json").read_text())
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    found = [(panel["title"], target["expr"]) for panel in panels for target in panel["targets"]]
    for variable in board["templating"]["list"]:
        read = re.fullmatch(r"label_values\((\w+), (\w+)\)", variable["query"]["query"])
        assert read is not None
        found.append((variable["name"], f"sum by ({read[2]}) ({read[1]})"))
    alerts = yaml.safe_load((DEPLOY / "prometheus" / "alerts.yaml").read_text())
    return found + [(rule["alert"], rule["expr"]) for group in alerts["groups"] for rule in group["rules"]]


@pytest.fixture(scope="module")
def told(server: Server) -> dict[str, list[dict[str, str]]]:
    """The labels of all samples that the server tells, by their metrics; those of DRR's that have no sample yet, too,
    with the labels that they will have."""
    server.ask()
    found: dict[str, list[dict[str, str]]] = {}
    text = httpx.get(f"{server.url}/metrics").text
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            found.setdefault(sample.name, []).append(dict(sample.labels))
    served = set(re.findall(r"^# TYPE (\S+)", text, re.MULTILINE))
    for metric in vars(metrics).values():
        labels = getattr(metric, "_labelnames", None)
        if labels is None:
            continue
        name = f"{metric._name}_total" if metric._type == "counter" else metric._name
        assert name in served, "the server tells of all of its metrics"
        found.setdefault(name, [dict.fromkeys(labels, "")])
    return found


@pytest.mark.parametrize(("where", "expression"), expressions(), ids=lambda text: text[:40])
def test_what_is_asked_for_is_told(told: dict[str, list[dict[str, str]]], where: str, expression: str) -> None:
    asked = selectors(expression)
    assert asked or expression.startswith("vector"), where
    labels = set(BY_PROMETHEUS)
    for selector in asked:
        if selector.metric in PROMETHEUS_OWN:
            continue
        assert selector.metric in told, f"{where}: the server tells of no {selector.metric}"
        samples = told[selector.metric]
        known = {label for sample in samples for label in sample}
        labels |= known
        for label, _, _ in selector.matchers:
            assert label in known | BY_PROMETHEUS, f"{where}: {selector.metric} has no {label}"
        for label, value in selector.values:
            values = {sample.get(label) for sample in samples} | DOMAINS.get((selector.metric, label), frozenset())
            assert value in values or label in BY_PROMETHEUS, f"{where}: {label} is never {value}"
    assert grouped_by(expression) <= labels, where


def test_names_that_are_wrong_are_noticed(told: dict[str, list[dict[str, str]]]) -> None:
    for wrong in (
        "rate(drr_response_total[1m])",
        'drr_engine_up{motor="reasoner"}',
        'drr_engine_up{engine="reasonner"}',
        "sum by (cause) (drr_responses_total)",
        "vllm:num_requests_runing",
    ):
        with pytest.raises(AssertionError):
            test_what_is_asked_for_is_told(told, "wrong", wrong)
