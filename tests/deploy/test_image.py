"""The Dockerfile, and what it runs."""

import http.server
import importlib
import json
import os
import re
import subprocess
import sys
import threading
import tomllib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import ROOT

DOCKERFILE = re.sub(r"\s*\\\n\s*", " ", (ROOT / "Dockerfile").read_text())
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def _stages() -> dict[str, list[str]]:
    """The instructions of each stage, by its name."""
    found: dict[str, list[str]] = {}
    for line in DOCKERFILE.splitlines():
        start = re.fullmatch(r"FROM \S+ AS (\S+)", line)
        if start is not None:
            found[start[1]] = []
        elif line.strip() and not line.startswith("#") and found:
            found[next(reversed(found))].append(line)
    return found


STAGES = _stages()
IMAGES = ("cpu", "cuda")


def _instruction(stage: str, name: str) -> str:
    (line,) = (line for line in STAGES[stage] if line.startswith(f"{name} "))
    return line.removeprefix(f"{name} ")


@pytest.fixture
def scripts(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Any]]:
    """scripts/install.py and scripts/image.py, as modules; their pip only notes what it is asked for."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield importlib.import_module("install"), importlib.import_module("image")
    for name in ("install", "image"):
        sys.modules.pop(name, None)


def test_the_image_for_gpus_is_what_is_built_unasked() -> None:
    assert list(STAGES)[-1] == "cuda"
    assert "FROM ${VLLM_IMAGE} AS cuda" in DOCKERFILE


def test_the_newest_supported_vllm_is_the_default() -> None:
    default = re.search(r"^ARG VLLM_VERSION=(\S+)$", DOCKERFILE, re.MULTILINE)
    supported = re.search(r"^VLLM \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert default is not None
    assert supported is not None
    assert default[1] == max(supported[1].split(), key=lambda text: tuple(map(int, text.split("."))))


def test_supported_versions_are_pyprojects(scripts: tuple[Any, Any]) -> None:
    _, image = scripts
    supported = re.search(r"^VLLM \?= (.+)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert supported is not None
    for version in (*supported[1].split(), "0.33.1+cu130"):
        image.check_supported(version)
    for version in ("0.31.2", "0.34.0", "1.0.0"):
        with pytest.raises(SystemExit, match=re.escape(version)):
            image.check_supported(version)


@pytest.mark.parametrize("stage", IMAGES)
def test_images_serve_as_nobody_in_particular(stage: str) -> None:
    user = _instruction(stage, "USER")
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", user)
    assert f"useradd --uid {user.partition(':')[0]}" in "\n".join(STAGES[stage])
    assert json.loads(_instruction(stage, "ENTRYPOINT")) == ["drr", "serve"]
    assert _instruction(stage, "STOPSIGNAL") == "SIGTERM"
    assert _instruction(stage, "VOLUME") == "/models"
    assert "HF_HOME=/models" in "\n".join(STAGES[stage])


def test_nothing_secret_is_built_in() -> None:
    for line in DOCKERFILE.splitlines():
        if line.startswith(("ARG", "ENV")):
            assert not re.search(r"token|secret|password|api_key", line, re.IGNORECASE), line


def test_only_what_is_copied_is_sent_to_the_builder() -> None:
    lines = [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line and not line.startswith("#")]
    assert lines[0] == "*"
    sent = {line[1:] for line in lines if line.startswith("!")}
    copied = set()
    for line in (line for stage in STAGES.values() for line in stage if line.startswith("COPY ")):
        if "--from=" not in line:
            copied.update(line.split()[1:-1])
    assert all((ROOT / path).exists() for path in sent | copied)
    assert {path for path in sent if not path.startswith("scripts/")} == copied - {"scripts"}
    assert {path for path in sent if path.startswith("scripts/")} == {
        f"scripts/{name}.py" for name in ("install", "image", "sbom", "tools")
    }


class _Answers(http.server.BaseHTTPRequestHandler):
    """Says 200 at /ready, 503 elsewhere."""

    def do_GET(self) -> None:
        self.send_response(200 if self.path == "/ready" else 503)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Keeps quiet."""


@pytest.mark.parametrize("stage", IMAGES)
def test_the_health_check_tells_ready_from_not(stage: str) -> None:
    check = re.search(r"HEALTHCHECK .* CMD (\[.*\])$", "\n".join(STAGES[stage]), re.MULTILINE)
    url = re.search(r"DRR_READY_URL=(\S+)", "\n".join(STAGES[stage]))
    assert check is not None
    assert url is not None
    assert url[1] == f"http://127.0.0.1:{_instruction(stage, 'EXPOSE')}/ready"
    python, *arguments = json.loads(check[1])
    assert python == "python"
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        for path, healthy in (("/ready", True), ("/other", False)):
            asked = {**os.environ, "DRR_READY_URL": f"http://127.0.0.1:{server.server_port}{path}"}
            command = [sys.executable, "-I", *arguments]
            result = subprocess.run(command, env=asked, capture_output=True, timeout=20, check=False)
            assert (result.returncode == 0) is healthy
        server.shutdown()


def test_the_port_is_vllms_default() -> None:
    from server.vllm_flags import _text_of

    found = re.search(r"^    port: int = (\d+)", _text_of(("entrypoints/**/cli_args.py",)), re.MULTILINE)
    assert found is not None
    assert {_instruction(stage, "EXPOSE") for stage in IMAGES} == {found[1]}


def test_the_cpu_environment_is_that_of_make_install(
    scripts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    install, image = scripts
    asked: list[Sequence[str]] = []

    def pip(environment: Path, *arguments: str, check: bool = True) -> int:
        asked.append(arguments)
        return 0 if check else 1  # the local folder of wheels has no torch

    monkeypatch.setattr(install, "pip", pip)
    monkeypatch.setattr("venv.create", lambda *_, **__: None)
    image.make_for_cpu(tmp_path)
    in_image = list(asked)
    asked.clear()
    install.install(tmp_path, cuda=False)
    assert in_image[:2] == asked[:2]
    assert in_image[1][-2:] == ("--extra-index-url", install.TORCH_CPU_INDEX)
    assert in_image[3] == asked[3]
    assert in_image[3][0] == "uninstall"
    wanted = set(in_image[2])
    assert {*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["cpu"]} <= wanted
    assert not wanted & {*PROJECT["optional-dependencies"]["dev"], *PROJECT["optional-dependencies"]["train"]}


def _on_top(image: Any, monkeypatch: pytest.MonkeyPatch, added: set[str]) -> list[tuple[str, ...]]:
    """What pip is asked for where the image has vLLM and pytest, and pip then adds these packages."""
    asked: list[tuple[str, ...]] = []

    def pip(environment: Path, *arguments: str) -> int:
        place = arguments.index("--constraint") + 1
        asked.append((*arguments[:place], Path(arguments[place]).read_text(), *arguments[place + 1 :]))
        return 0

    monkeypatch.setattr(image, "pip", pip)
    monkeypatch.setattr(image, "version", lambda name: "0.33.0")
    monkeypatch.setattr(image, "installed", lambda: {"vllm": "0.33.0", "pytest": "9.0", "pip": "26.0"})
    monkeypatch.setattr(image, "added", lambda environment: added)
    monkeypatch.setattr("venv.EnvBuilder.create", lambda *_: None)
    image.make_on_top(Path("nowhere"))
    return asked


def test_the_images_packages_stay_as_they_are(scripts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, image = scripts
    (asked,) = _on_top(image, monkeypatch, {"pip", "setuptools", "math-verify"})
    assert "vllm==0.33.0\npytest==9.0\n" in asked
    assert set(PROJECT["dependencies"]) <= set(asked)
    assert not any(argument.startswith("vllm") and "\n" not in argument for argument in asked)
    with pytest.raises(SystemExit, match="vllm"):
        _on_top(image, monkeypatch, {"pip", "vllm"})


def test_an_image_without_vllm_is_refused(scripts: tuple[Any, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    _, image = scripts

    def version(name: str) -> str:
        raise image.PackageNotFoundError(name)

    monkeypatch.setattr(image, "version", version)
    with pytest.raises(SystemExit, match="no vLLM"):
        image.make_on_top(Path("nowhere"))


def test_installed_packages_are_found(scripts: tuple[Any, Any]) -> None:
    _, image = scripts
    found = image.installed()
    assert found["pytest"] == pytest.__version__
    assert found["math-verify"]
