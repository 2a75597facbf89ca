"""deploy/compose.yaml, and what it mounts."""

import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import DEPLOY, ROOT, load, seconds

COMPOSE = load(DEPLOY / "compose.yaml")
SERVICES: dict[str, Any] = COMPOSE["services"]
SERVERS = ("server", "demo")


def _mounts(service: str) -> list[tuple[str, str]]:
    return [(source, target) for source, target, *_ in (entry.split(":") for entry in SERVICES[service]["volumes"])]


def _default(text: str) -> str:
    """A text with the defaults of its variables."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", text)


@pytest.mark.parametrize("service", SERVICES)
def test_what_is_mounted_is_there(service: str) -> None:
    for source, _ in _mounts(service):
        if source.startswith("."):
            assert (DEPLOY / source).exists(), source
        else:
            assert source in COMPOSE["volumes"]


@pytest.mark.parametrize("service", SERVERS)
def test_answers_under_way_may_finish(service: str) -> None:
    command = SERVICES[service]["command"]
    settings = load(DEPLOY / "server.yaml")
    timeout = (
        int(command[command.index("--shutdown-timeout") + 1]) if service == "demo" else settings["shutdown-timeout"]
    )
    assert seconds(SERVICES[service]["stop_grace_period"]) > timeout


@pytest.mark.parametrize("service", SERVERS)
def test_servers_have_no_rights(service: str) -> None:
    assert SERVICES[service]["read_only"]
    assert SERVICES[service]["cap_drop"] == ["ALL"]
    assert "no-new-privileges:true" in SERVICES[service]["security_opt"]
    assert any(entry.startswith("/tmp:") and "exec" in entry for entry in SERVICES[service]["tmpfs"])


def test_the_demo_needs_no_gpu_and_is_not_started_unasked() -> None:
    assert SERVICES["demo"]["profiles"] == ["cpu"]
    assert "deploy" not in SERVICES["demo"]
    assert "profiles" not in SERVICES["server"]
    (device,) = SERVICES["server"]["deploy"]["resources"]["reservations"]["devices"]
    assert device["capabilities"] == ["gpu"]


def test_targets_and_versions_are_the_dockerfiles() -> None:
    stages = dict(re.findall(r"^FROM (\S+) AS (\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE))
    for service in SERVERS:
        assert SERVICES[service]["build"]["target"] in stages.values()
        assert (DEPLOY / SERVICES[service]["build"]["context"]).resolve() == ROOT
    found = re.search(r"^ARG VLLM_VERSION=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert found is not None
    assert _default(SERVICES["server"]["build"]["args"]["VLLM_VERSION"]) == found[1]


def test_the_server_reads_its_settings_and_keys() -> None:
    settings = load(DEPLOY / "server.yaml")
    command = SERVICES["server"]["command"]
    assert ("./server.yaml", command[command.index("--config") + 1]) in _mounts("server")
    (secret,) = SERVICES["server"]["secrets"]
    assert settings["drr-api-keys"] == f"/run/secrets/{secret}"
    assert secret in COMPOSE["secrets"]
    for service in SERVERS:
        (port,) = SERVICES[service]["ports"]
        assert _default(port).endswith(f":{settings['port']}")
        assert _default(port).startswith("127.0.0.1:")


def test_keys_are_never_committed() -> None:
    path = Path(_default(COMPOSE["secrets"]["drr_api_keys"]["file"]))
    assert subprocess.run(["git", "check-ignore", "-q", DEPLOY / path], cwd=ROOT, check=False).returncode == 0
    example = (DEPLOY / f"{path}.example").read_text()
    assert all(re.fullmatch(r"[\w-]+:\S+", line) for line in example.splitlines())
    assert "replace-this" in example


def test_prometheus_asks_the_server() -> None:
    settings = load(DEPLOY / "prometheus" / "prometheus.yaml")
    (job,) = settings["scrape_configs"]
    (targets,) = job["static_configs"]
    name, port = targets["targets"][0].split(":")
    assert int(port) == load(DEPLOY / "server.yaml")["port"]
    for service in SERVERS:
        assert name in SERVICES[service]["networks"]["default"]["aliases"]
    assert settings["rule_files"] == ["alerts*.yaml"]
    assert "--config.file=/etc/prometheus/prometheus.yaml" in SERVICES["prometheus"]["command"]
    assert ("./prometheus", "/etc/prometheus") in _mounts("prometheus")


def test_grafana_finds_prometheus_and_its_boards() -> None:
    provisioning = DEPLOY / "grafana" / "provisioning"
    (source,) = load(provisioning / "datasources" / "prometheus.yaml")["datasources"]
    assert source["url"] == "http://prometheus:9090"
    assert source["uid"] == "prometheus"
    (provider,) = load(provisioning / "dashboards" / "drr.yaml")["providers"]
    assert ("./grafana", provider["options"]["path"]) in _mounts("grafana")
    assert ("./grafana/provisioning", "/etc/grafana/provisioning") in _mounts("grafana")
