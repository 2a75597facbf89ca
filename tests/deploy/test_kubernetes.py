"""The plain manifests: they fit each other and the server."""

import re
from typing import Any

import pytest

from tests.deploy.files import (
    KUBERNETES,
    ROOT,
    all_objects,
    load,
    manifests,
    one,
    plain_files,
    served_paths,
    server_settings,
)

DEPLOYMENTS = ("drr", "drr-judge")


def _pod(name: str) -> dict[str, Any]:
    pod: dict[str, Any] = one("Deployment", name)["spec"]["template"]["spec"]
    return pod


def _container(name: str) -> dict[str, Any]:
    (container,) = _pod(name)["containers"]
    assert isinstance(container, dict)
    return container


def _pre_stop(name: str) -> int:
    program, time = _container(name)["lifecycle"]["preStop"]["exec"]["command"]
    assert program == "sleep"
    return int(time)


@pytest.mark.parametrize("path", plain_files(), ids=lambda path: path.name)
def test_manifests_say_what_they_are(path: Any) -> None:
    found = manifests(path)
    assert found
    for each in found:
        assert each["apiVersion"]
        assert each["metadata"]["name"].startswith("drr")


def test_answers_under_way_may_finish() -> None:
    assert _pre_stop("drr") == 15
    assert _pod("drr")["terminationGracePeriodSeconds"] > _pre_stop("drr") + server_settings()["shutdown-timeout"]
    assert _pod("drr-judge")["terminationGracePeriodSeconds"] > _pre_stop("drr-judge")


@pytest.mark.parametrize(
    ("probe", "path"), [("startupProbe", "/live"), ("readinessProbe", "/ready"), ("livenessProbe", "/live")]
)
def test_probes_ask_what_the_server_has(probe: str, path: str) -> None:
    asked = _container("drr")[probe]["httpGet"]
    assert asked == {"path": path, "port": "http"}
    assert path in served_paths()


def test_paths_are_found_in_the_code() -> None:
    assert {"/health", "/version"} <= served_paths()
    assert "/nowhere" not in served_paths()


def test_a_start_may_take_long_and_a_death_is_seen_soon() -> None:
    for name in DEPLOYMENTS:
        container = _container(name)
        start, alive = container["startupProbe"], container["livenessProbe"]
        assert start["periodSeconds"] * start["failureThreshold"] >= 900
        assert alive["periodSeconds"] * alive["failureThreshold"] <= 60
        assert (
            one("Deployment", name)["spec"]["progressDeadlineSeconds"]
            > start["periodSeconds"] * start["failureThreshold"]
        )


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_pods_have_no_rights(name: str) -> None:
    pod, rights = _pod(name), _container(name)["securityContext"]
    assert pod["securityContext"]["runAsNonRoot"]
    assert not pod["automountServiceAccountToken"]
    assert not rights["allowPrivilegeEscalation"]
    assert rights["readOnlyRootFilesystem"]
    assert rights["capabilities"] == {"drop": ["ALL"]}


def test_pods_run_as_the_images_user() -> None:
    users = set(re.findall(r"^USER (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    for name in DEPLOYMENTS:
        context = _pod(name)["securityContext"]
        assert users == {f"{context['runAsUser']}:{context['runAsGroup']}"}
        assert context["fsGroup"] == context["runAsGroup"]


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_pods_ask_for_what_they_need(name: str) -> None:
    resources = _container(name)["resources"]
    assert resources["limits"]["nvidia.com/gpu"] == resources["requests"]["nvidia.com/gpu"]
    assert {"cpu", "memory"} <= resources["requests"].keys()


@pytest.mark.parametrize("name", DEPLOYMENTS)
def test_what_is_mounted_is_there(name: str) -> None:
    volumes = {volume["name"]: volume for volume in _pod(name)["volumes"]}
    mounts = {mount["mountPath"]: mount["name"] for mount in _container(name)["volumeMounts"]}
    assert set(mounts.values()) == volumes.keys()
    for path in ("/tmp", "/home/drr", "/dev/shm"):
        assert "emptyDir" in volumes[mounts[path]]
    claim = volumes[mounts["/models"]]["persistentVolumeClaim"]["claimName"]
    assert one("PersistentVolumeClaim", claim)


def test_the_server_reads_its_settings_and_keys() -> None:
    volumes = {volume["name"]: volume for volume in _pod("drr")["volumes"]}
    mounts = {mount["mountPath"]: mount for mount in _container("drr")["volumeMounts"]}
    settings = mounts[_container("drr")["args"][1]]
    assert _container("drr")["args"][0] == "--config"
    assert settings["subPath"] in one("ConfigMap", volumes[settings["name"]]["configMap"]["name"])["data"]
    folder, _, key = server_settings()["drr-api-keys"].rpartition("/")
    secret = volumes[mounts[folder]["name"]]["secret"]
    lines = one("Secret", secret["secretName"])["stringData"][key].splitlines()
    assert lines
    assert all(re.fullmatch(r"[\w-]+:\S+", line) for line in lines)
    assert secret["defaultMode"] == 0o440


def test_objects_find_each_other() -> None:
    labels = {name: one("Deployment", name)["spec"]["template"]["metadata"]["labels"] for name in DEPLOYMENTS}
    for name in DEPLOYMENTS:
        deployment, service = one("Deployment", name), one("Service", name)
        assert deployment["spec"]["selector"]["matchLabels"].items() <= labels[name].items()
        assert service["spec"]["selector"].items() <= labels[name].items()
        (other,) = (other for other in DEPLOYMENTS if other != name)
        assert not service["spec"]["selector"].items() <= labels[other].items()
        policy = one("NetworkPolicy", name)["spec"]
        assert policy["podSelector"]["matchLabels"].items() <= labels[name].items()
        (port,) = service["spec"]["ports"]
        assert port["targetPort"] in [port["name"] for port in _container(name)["ports"]]
        assert [rule["ports"][0]["port"] for rule in policy["ingress"]] == [port["port"]]
        assert [port["containerPort"] for port in _container(name)["ports"]] == [port["port"]]
    assert one("PodDisruptionBudget")["spec"]["selector"]["matchLabels"].items() <= labels["drr"].items()
    assert one("HorizontalPodAutoscaler")["spec"]["scaleTargetRef"]["name"] == "drr"
    monitor = one("ServiceMonitor")["spec"]
    assert monitor["selector"]["matchLabels"].items() <= one("Service")["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] == one("Service")["spec"]["ports"][0]["name"]


def test_the_judge_is_where_the_servers_look_for_it() -> None:
    proposed = re.search(r"# dm-url: http://([\w-]+):(\d+)", (KUBERNETES / "configmap.yaml").read_text())
    assert proposed is not None
    service = one("Service", proposed[1])
    assert service["spec"]["ports"][0]["port"] == int(proposed[2])
    arguments = _container("drr-judge")["args"]
    assert arguments[arguments.index("--port") + 1] == proposed[2]
    (rule,) = one("NetworkPolicy", "drr-to-judge")["spec"]["egress"]
    assert rule["ports"][0]["port"] == int(proposed[2])
    assert rule["to"][0]["podSelector"]["matchLabels"] == service["spec"]["selector"]


def test_the_server_listens_where_it_is_asked() -> None:
    (port,) = one("Service")["spec"]["ports"]
    assert server_settings()["port"] == port["port"]
    assert server_settings()["host"] == "0.0.0.0"


def test_kustomize_names_every_file() -> None:
    text = (KUBERNETES / "kustomization.yaml").read_text()
    named = set(re.findall(r"^  (?:# )?- (\w\S*\.yaml)$", text, re.MULTILINE))
    assert named == {path.name for path in plain_files()} - {"secret.example.yaml"}
    assert set(load(KUBERNETES / "kustomization.yaml")["resources"]) <= named


def test_manifests_are_kubernetes() -> None:
    """Against Kubernetes' own schemas, oldest and newest."""
    validate = pytest.importorskip("kubernetes_validate", reason="kubernetes-validate is not installed")
    for each in all_objects():
        if each["kind"] not in ("ServiceMonitor", "PrometheusRule"):
            for version in ("1.25.0", "1.37.0"):
                validate.validate(each, version, strict=True)
