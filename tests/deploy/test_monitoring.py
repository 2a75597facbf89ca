"""Board and alerts: they fit each other, and the docs. What they read is checked against a server in
tests/server/test_board.py."""

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import CHART, DEPLOY, ROOT, load, one
from tests.deploy.promql import Selector, grouped_by, selectors

BOARD: dict[str, Any] = json.loads((DEPLOY / "grafana" / "drr.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
ALERTS = DEPLOY / "prometheus" / "alerts.yaml"
RULES = [rule for group in load(ALERTS)["groups"] for rule in group["rules"]]


def anchors(path: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


def test_expressions_are_read() -> None:
    read = selectors(
        'sum by (a, b) (rate(x_total{m="1", n=~"u|v"}[$__rate_interval])) / on (c) y:z{} > 0.5 and vector(1)'
    )
    assert read == [Selector("x_total", (("m", "=", "1"), ("n", "=~", "u|v"))), Selector("y:z")]
    assert read[0].values == [("m", "1"), ("n", "u"), ("n", "v")]
    assert grouped_by("sum by (a, b) (x) / on (c) y") == {"a", "b", "c"}
    with pytest.raises(ValueError, match="not understood"):
        selectors("x{a=b}")


def test_every_alert_names_its_panel_and_its_remedy() -> None:
    titles = [panel["title"] for panel in PANELS]
    assert len(set(titles)) == len(titles)
    for rule in RULES:
        told = rule["annotations"]
        assert told["panel"] in titles, rule["alert"]
        assert told["runbook"] == f"docs/monitoring.md#{rule['alert'].lower()}"
        assert rule["alert"].lower() in anchors(ROOT / "docs" / "monitoring.md"), rule["alert"]
        assert told["summary"]
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_an_alert_and_its_panel_show_the_same() -> None:
    shown = {panel["title"]: {s.metric for t in panel["targets"] for s in selectors(t["expr"])} for panel in PANELS}
    for rule in RULES:
        assert {s.metric for s in selectors(rule["expr"])} & shown[rule["annotations"]["panel"]], rule["alert"]


def test_docs_tell_of_alerts_that_there_are() -> None:
    told = set(re.findall(r"^### (Drr\w+)$", (ROOT / "docs" / "monitoring.md").read_text(), re.MULTILINE))
    assert told == {rule["alert"] for rule in RULES}


def test_panels_lie_side_by_side() -> None:
    taken: set[tuple[int, int]] = set()
    for panel in BOARD["panels"]:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert place["x"] + place["w"] <= 24
        assert not cells & taken, panel["title"]
        taken |= cells
    ids = [panel["id"] for panel in BOARD["panels"]]
    assert len(set(ids)) == len(ids)


def test_panels_say_what_they_show_and_ask_the_source_that_is_there() -> None:
    (source,) = load(DEPLOY / "grafana" / "provisioning" / "datasources" / "prometheus.yaml")["datasources"]
    for panel in PANELS:
        assert panel["description"].endswith("."), panel["title"]
        assert panel["datasource"]["uid"] == source["uid"]
        for target in panel["targets"]:
            assert target["datasource"]["uid"] == source["uid"]
            assert all({m[0]: m[2] for m in s.matchers}["instance"] == "$instance" for s in selectors(target["expr"]))


def test_prometheus_loads_the_rules() -> None:
    patterns = load(DEPLOY / "prometheus" / "prometheus.yaml")["rule_files"]
    assert any(ALERTS in (DEPLOY / "prometheus").glob(pattern) for pattern in patterns)


def test_kubernetes_has_the_same_rules() -> None:
    assert one("PrometheusRule")["spec"] == load(ALERTS)
    assert (CHART / "files" / "alerts.yaml").read_text() == ALERTS.read_text()


@pytest.fixture
def promtool() -> str:
    found = shutil.which("promtool")
    if found is None:
        pytest.skip("promtool is not installed (Debian's package prometheus)")
    return found


def test_prometheus_reads_the_rules(promtool: str) -> None:
    subprocess.run([promtool, "check", "rules", str(ALERTS)], check=True, capture_output=True)


def test_prometheus_reads_the_panels(promtool: str, tmp_path: Path) -> None:
    """As recording rules: promtool of the oldest Debian reads expressions nowhere else."""
    rules = [
        {"record": f"panel:{panel['id']}:{place}", "expr": target["expr"].replace("$__rate_interval", "1m")}
        for panel in PANELS
        for place, target in enumerate(panel["targets"])
    ]
    path = tmp_path / "panels.yaml"
    path.write_text(json.dumps({"groups": [{"name": "panels", "rules": rules}]}))
    subprocess.run([promtool, "check", "rules", str(path)], check=True, capture_output=True)


def test_alerts_fire_when_they_should(promtool: str, tmp_path: Path) -> None:
    tests, rules = load(Path(__file__).with_name("alert_cases.yaml")), load(ALERTS)
    for group in rules["groups"]:
        for rule in group["rules"]:
            del rule["annotations"]  # which promtool would want to the last digit
    (tmp_path / "rules.yaml").write_text(json.dumps(rules))
    tests["rule_files"] = ["rules.yaml"]
    path = tmp_path / "cases.yaml"
    path.write_text(json.dumps(tests))
    done = subprocess.run([promtool, "test", "rules", str(path)], check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    cases = [case["alertname"] for group in tests["tests"] for case in group["alert_rule_test"]]
    assert {rule["alert"] for rule in RULES} <= set(cases)
