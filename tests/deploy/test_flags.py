"""Every option that a file of deploy/ gives is one that the server takes."""

import re
from collections.abc import Iterator

import pytest
import yaml

from tests.deploy.files import (
    CHART,
    DEPLOY,
    KUBERNETES,
    ROOT,
    flags_in,
    load,
    one,
    server_settings,
    takes,
)


def _given() -> Iterator[tuple[str, str]]:
    """Where an option is given, and its name."""
    compose = load(DEPLOY / "compose.yaml")
    for name in ("server", "demo"):
        yield from (("compose.yaml", flag) for flag in flags_in(compose["services"][name]["command"]))
    yield from (("server.yaml", flag) for flag in load(DEPLOY / "server.yaml"))
    yield from (("configmap.yaml", flag) for flag in server_settings())
    (container,) = one("Deployment")["spec"]["template"]["spec"]["containers"]
    yield from (("deployment.yaml", flag) for flag in flags_in(container["args"]))
    yield from (("values.yaml", flag) for flag in load(CHART / "values.yaml")["server"])
    template = (CHART / "templates" / "configmap.yaml").read_text()
    yield from (("chart's configmap.yaml", flag) for flag in re.findall(r"^    ([a-z.-]+): ", template, re.MULTILINE))
    for path in (DEPLOY / "server.yaml", KUBERNETES / "configmap.yaml", CHART / "values.yaml"):
        proposed = re.findall(r"^ *# ([a-z-]+): \S", path.read_text(), re.MULTILINE)
        yield from ((f"{path.name}, proposed", flag) for flag in proposed)
    pages = [ROOT / "Dockerfile", *DEPLOY.rglob("*.yaml"), ROOT / "docs" / "operations.md"]
    for path in pages:
        named = re.findall(r"--((?:drr|dm|prm)\b[a-z-]*|shutdown-timeout)", path.read_text())
        yield from ((path.name, flag) for flag in named)


GIVEN = sorted(set(_given()))


def test_options_are_found() -> None:
    assert {"server.yaml", "configmap.yaml", "values.yaml", "operations.md"} <= {place for place, _ in GIVEN}
    assert ("chart's configmap.yaml", "drr-api-keys") in GIVEN
    assert ("configmap.yaml, proposed", "dm-url") in GIVEN


@pytest.mark.parametrize(("place", "flag"), GIVEN)
def test_the_server_takes_every_option(place: str, flag: str) -> None:
    assert takes(flag), f"{place}: `drr serve` has no --{flag}"


def test_an_option_that_nobody_has_is_found_out() -> None:
    assert not takes("drr-max-run")
    assert not takes("max-modal-len")
    assert takes("max-model-len")
    assert takes("dm-url")


def test_vllm_takes_the_judges_options() -> None:
    (container,) = one("Deployment", "drr-judge")["spec"]["template"]["spec"]["containers"]
    assert container["command"] == ["vllm", "serve"]
    for flag in flags_in(container["args"]):
        assert takes(flag)


def test_the_chart_sets_no_option_twice() -> None:
    """Helm would write both, and one of them would be lost."""
    template = (CHART / "templates" / "configmap.yaml").read_text()
    own = set(re.findall(r"^    ([a-z.-]+): ", template, re.MULTILINE))
    assert own
    assert not own & set(load(CHART / "values.yaml")["server"])
    refused = yaml.safe_load((CHART / "values.schema.json").read_text())["properties"]["server"]["propertyNames"]["not"]
    assert own <= set(refused["enum"])
