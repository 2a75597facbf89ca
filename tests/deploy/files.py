"""The files of deploy/, read; and what the server they start takes."""

import copy
import functools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from drr.errors import InputError
from server.arguments import own_parser
from server.vllm_flags import check_known

ROOT = Path(__file__).resolve().parents[2]
DEPLOY = ROOT / "deploy"
KUBERNETES = DEPLOY / "kubernetes"
CHART = KUBERNETES / "chart"


def load(path: Path) -> Any:
    """The one document of a YAML file."""
    return yaml.safe_load(path.read_text())


def manifests(path: Path) -> list[dict[str, Any]]:
    """The objects of a file of Kubernetes'."""
    return copy.deepcopy(_manifests(path))


@functools.cache
def _manifests(path: Path) -> list[dict[str, Any]]:
    return [found for found in yaml.safe_load_all(path.read_text()) if found is not None]


def plain_files() -> list[Path]:
    """The manifests, without kustomize's own file."""
    return sorted(path for path in KUBERNETES.glob("*.yaml") if path.name != "kustomization.yaml")


def all_objects() -> Iterator[dict[str, Any]]:
    """Every object of the plain manifests."""
    for path in plain_files():
        yield from manifests(path)


def one(kind: str, name: str = "drr") -> dict[str, Any]:
    """The object of this kind and name."""
    (found,) = (each for each in all_objects() if each["kind"] == kind and each["metadata"]["name"] == name)
    return found


def server_settings() -> dict[str, Any]:
    """What the ConfigMap tells the server."""
    settings: dict[str, Any] = yaml.safe_load(one("ConfigMap")["data"]["server.yaml"])
    return settings


def seconds(text: str) -> int:
    """A duration of Compose's that is in seconds."""
    found = re.fullmatch(r"(\d+)s", text)
    assert found is not None, text
    return int(found[1])


def flags_in(arguments: list[Any]) -> list[str]:
    """The flags of a command line, without their dashes."""
    return [text[2:].partition("=")[0] for text in map(str, arguments) if text.startswith("--")]


@functools.cache
def takes(flag: str) -> bool:
    """Whether `drr serve` has this flag (or one that it abbreviates, of vLLM's)."""
    own = {text for action in own_parser()._actions for text in action.option_strings}
    if flag.startswith(("dm", "drr", "prm")):
        return f"--{flag}" in own
    try:
        check_known([f"--{flag}"], own)
    except InputError:
        return False
    return True


def served_paths() -> set[str]:
    """The paths that DRR's own routes have."""
    text = "\n".join(path.read_text() for path in sorted((ROOT / "server").rglob("*.py")))
    return set(re.findall(r"[\"'](/[a-z]+)[\"']", text))
