"""Alert rules and dashboard: they work, and are about metrics that there are."""

import json
import re

import yaml

from conftest import CHART, HERE, TOP, objects, run, template

RULES = CHART / "files" / "rules.yaml"


def test_rules_are_well_formed():
    run("promtool", "check", "rules", "--lint=all", "--lint-fatal", RULES)


def test_each_alert_fires_when_it_should_and_only_then():
    run("promtool", "test", "rules", HERE / "rules_test.yaml")


def alerts():
    groups = yaml.safe_load(RULES.read_text())["groups"]
    return {rule["alert"]: rule for group in groups for rule in group["rules"] if "alert" in rule}


def test_each_alert_is_tested_both_ways():
    tests = yaml.safe_load((HERE / "rules_test.yaml").read_text())["tests"]
    seen = {}
    for test in tests:
        for check in test.get("alert_rule_test", []):
            seen.setdefault(check["alertname"], set()).add(bool(check["exp_alerts"]))
    assert seen == {name: {True, False} for name in alerts()}


def metrics_in(text):
    """Names of the daemon's metrics; a histogram's series are its own."""
    found = {re.sub(r"_(bucket|sum|count)$", "", name) for name in re.findall(r"(?<![:\w])kvtier_\w+", text)}
    return found


def test_rules_and_dashboard_know_the_daemons_metrics():
    documented = set(re.findall(r"^\| `(kvtier_\w+)`", (TOP / "docs" / "metrics.md").read_text(), re.MULTILINE))
    assert len(documented) > 50
    board = json.loads((CHART / "files" / "dashboard.json").read_text())
    expressions = [target["expr"] for panel in board["panels"] for target in panel.get("targets", [])]
    assert len(expressions) > 20
    for text in [rule["expr"] for rule in alerts().values()] + expressions:
        assert metrics_in(text) <= documented, text


def test_expressions_of_the_dashboard_parse(tmp_path):
    board = json.loads((CHART / "files" / "dashboard.json").read_text())
    rules = [
        {"record": f"panel:number:{index}", "expr": target["expr"].replace("$node", "x").replace("$__rate_interval", "5m")}
        for index, target in enumerate(target for panel in board["panels"] for target in panel.get("targets", []))
    ]
    (tmp_path / "panels.yaml").write_text(yaml.safe_dump({"groups": [{"name": "panels", "rules": rules}]}))
    run("promtool", "check", "rules", tmp_path / "panels.yaml")


def test_each_alert_leads_to_a_section_of_the_failure_guide():
    headings = re.findall(r"^##+ (.*)$", (TOP / "docs" / "failures.md").read_text(), re.MULTILINE)
    anchors = {"docs/failures.md#" + re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    for name, rule in alerts().items():
        assert rule["annotations"]["runbook"] in anchors, name
        assert rule["labels"]["severity"] in ("critical", "warning", "info")


def test_the_chart_carries_the_rules_that_are_tested():
    rendered = objects(template(HERE / "cases" / "full.yaml").stdout)
    carried = rendered["PrometheusRule/kvtier"]["spec"]["groups"]
    names = {rule["alert"] for group in carried for rule in group["rules"] if "alert" in rule}
    assert names == set(alerts()) - {"KvtierDeviceTooSlow"}
    for group in carried:
        for rule in group["rules"]:
            assert "alert" not in rule or rule == alerts()[rule["alert"]]
    assert json.loads(rendered["ConfigMap/kvtier-dashboard"]["data"]["kvtier.json"])["title"] == "kvtier"
