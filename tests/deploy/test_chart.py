"""The Helm chart: the same objects as the plain manifests, by values."""

import json
import re
import tomllib
from typing import Any

import pytest
import yaml

from tests.deploy.files import CHART, DEPLOY, ROOT, all_objects, load, one

VALUES = load(CHART / "values.yaml")
JUDGED = {
    "judge": {"enabled": True},
    "server": {"dm": "/models/dm"},
    "autoscaling": {"enabled": True},
    "serviceMonitor": {"enabled": True},
    "prometheusRule": {"enabled": True},
}
HELMS = ("app.kubernetes.io/managed-by", "helm.sh/chart", "helm.sh/resource-policy", "checksum/server")


def test_versions_are_the_projects() -> None:
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    assert load(CHART / "Chart.yaml")["appVersion"] == version
    assert load(DEPLOY / "kubernetes" / "kustomization.yaml")["images"][0]["newTag"] == version
    for name in ("drr", "drr-judge"):
        (container,) = one("Deployment", name)["spec"]["template"]["spec"]["containers"]
        assert container["image"] == f"drr:{version}"
    assert f"DRR_VERSION:-{version}" in (DEPLOY / "compose.yaml").read_text()


def test_values_fit_their_schema() -> None:
    jsonschema = pytest.importorskip("jsonschema")
    schema = json.loads((CHART / "values.schema.json").read_text())
    jsonschema.Draft7Validator.check_schema(schema)
    jsonschema.validate(VALUES, schema)
    assert VALUES.keys() == schema["properties"].keys() - {"global"}
    for wrong in ({"replica": 3}, {"server": {"port": 1}}, {"server": {"max-model-len": 4194304}}, {"port": 80}):
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(wrong, schema)


def test_every_value_is_used_and_there() -> None:
    templates = "\n".join(path.read_text() for path in (CHART / "templates").iterdir())
    used = set(re.findall(r"\.Values\.(\w+)", templates))
    assert used == VALUES.keys()
    for first, second in re.findall(r"\.Values\.(\w+)\.(\w+)", templates):
        assert first == "server" or second in VALUES[first], f"{first}.{second}"


def test_numbers_and_paths_are_the_manifests() -> None:
    """What can be compared where nothing renders the chart."""
    for name, file in (("drr", "deployment.yaml"), ("drr-judge", "judge.yaml")):
        pod = one("Deployment", name)["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        probes = [container[probe]["httpGet"]["path"] for probe in ("startupProbe", "readinessProbe", "livenessProbe")]
        template = (CHART / "templates" / file).read_text()
        assert re.findall(r"^ +path: (\S+)$", template, re.MULTILINE) == probes
        values = VALUES if name == "drr" else VALUES["judge"]
        assert container["resources"] == values["resources"]
        assert container["ports"][0]["containerPort"] == values["port"]
        assert one("Deployment", name)["spec"]["replicas"] == values["replicas"]
        assert container["lifecycle"]["preStop"]["exec"]["command"][1] == str(VALUES["shutdown"]["preStop"])
        assert container["startupProbe"]["failureThreshold"] * 10 == VALUES["startup"]["seconds"]
    assert one("Deployment")["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == sum(
        VALUES["shutdown"].values()
    )
    assert one("NetworkPolicy")["spec"]["ingress"][0]["from"] == VALUES["networkPolicy"]["from"]


def _without_helms(found: Any) -> Any:
    """What is in an object without that which only Helm puts there."""
    if isinstance(found, list):
        return [_without_helms(each) for each in found]
    if not isinstance(found, dict):
        return found
    kept = {key: _without_helms(value) for key, value in found.items() if key not in HELMS}
    return {key: value for key, value in kept.items() if key not in ("annotations",) or value}


def _rendered(values: dict[str, Any]) -> dict[tuple[str, str], Any]:
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    with helm.Chart.load(str(CHART)) as chart:
        texts = chart.render(values, name="drr", namespace="default")
    found = [each for name, text in texts.items() if name.endswith(".yaml") for each in yaml.safe_load_all(text)]
    return {(each["kind"], each["metadata"]["name"]): _without_helms(each) for each in found if each is not None}


def _settings(config_map: Any) -> Any:
    return {key: str(value) for key, value in yaml.safe_load(config_map["data"]["server.yaml"]).items()}


def test_the_chart_makes_what_the_manifests_are() -> None:
    plain = {(each["kind"], each["metadata"]["name"]): each for each in all_objects() if each["kind"] != "Secret"}
    usual, judged = _rendered({}), _rendered(JUDGED)
    assert _settings(usual.pop(("ConfigMap", "drr"))) == _settings(plain.pop(("ConfigMap", "drr")))
    assert _settings(judged.pop(("ConfigMap", "drr")))["dm-url"] == "http://drr-judge:8001"
    assert usual.items() <= plain.items()
    scaled = judged.pop(("Deployment", "drr"))
    assert scaled["spec"].keys() == plain[("Deployment", "drr")]["spec"].keys() - {"replicas"}
    assert {**judged, ("Deployment", "drr"): usual[("Deployment", "drr")]} == plain


def test_times_to_end_follow_the_values() -> None:
    pods = _rendered({"shutdown": {"preStop": 20, "timeout": 600}})
    assert pods[("Deployment", "drr")]["spec"]["template"]["spec"]["terminationGracePeriodSeconds"] == 650
    assert _settings(pods[("ConfigMap", "drr")])["shutdown-timeout"] == "600"


def test_a_judge_without_a_dm_is_refused() -> None:
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    with pytest.raises(helm.HelmRenderError, match=re.escape("needs server.dm")):
        _rendered({"judge": {"enabled": True}})
    assert helm.lint(str(CHART))["errors"] == []
