"""Write the bill of materials of an environment: every Python package in it, by name, version and licence (CycloneDX).

python3 scripts/sbom.py /opt/drr /opt/drr/sbom.cdx.json

Packages of the system, and models, are none of it.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tools import tool

CYCLONEDX = "cyclonedx-bom==7.5.0"
NEEDED = ("drr", "vllm")
"""Packages without which it is not the bill of an image; the CPU build of vLLM counts as vllm."""


def write(environment: Path, out: Path, programs: Path) -> dict[str, Any]:
    """Write the bill of `environment` and return it; `programs` is the folder of CycloneDX's."""
    command = [str(programs / "cyclonedx-py"), "environment", "--output-reproducible", "--of", "JSON", "-o", str(out)]
    subprocess.run([*command, str(environment / "bin" / "python")], check=True)
    bill: dict[str, Any] = json.loads(out.read_text())
    return bill


def missing(bill: dict[str, Any]) -> list[str]:
    """What should be in the bill and is not."""
    names = {component["name"].lower() for component in bill.get("components", ())}
    return [name for name in NEEDED if not names & {name, f"{name}-cpu"}]


def main(arguments: Sequence[str]) -> None:
    """Write it. SystemExit where it cannot be written, or is not the bill of a server."""
    if len(arguments) != 2:
        raise SystemExit(__doc__)
    environment, out = map(Path, arguments)
    with tempfile.TemporaryDirectory() as folder:
        try:
            bill = write(environment, out, tool(CYCLONEDX, Path(folder)))
        except subprocess.CalledProcessError as error:
            raise SystemExit(f"failed: {' '.join(error.cmd)}") from None
    if absent := missing(bill):
        raise SystemExit(f"The bill of materials of {environment} lacks {', '.join(absent)}.")


if __name__ == "__main__":
    main(sys.argv[1:])
