"""Make the environment that an image serves from: what the Dockerfile runs.

    python3 scripts/image.py cpu /opt/drr     # with vLLM's CPU build and everything else that serving needs
    python3 scripts/image.py cuda /opt/drr    # on top of the vLLM that this Python has, which stays as it is

DRR itself is not installed: its wheel comes last, so that a changed source file changes one small layer.
"""

import json
import subprocess
import sys
import tempfile
import tomllib
import venv
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, distributions, version
from pathlib import Path
from typing import Any

from install import ROOT, install_for_cpu, pip

BROUGHT_BY_VENV = ("pip", "setuptools")


def requirements(extra: str = "") -> list[str]:
    """What pyproject.toml says that DRR needs, with one of its extras."""
    project: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return [*project["dependencies"], *(project["optional-dependencies"][extra] if extra else ())]


def check_supported(found: str) -> None:
    """SystemExit unless this version of vLLM is one that pyproject.toml allows."""
    from packaging.requirements import Requirement

    allowed = next(need for need in map(Requirement, requirements("gpu")) if need.name == "vllm").specifier
    if not allowed.contains(found, prereleases=True):
        raise SystemExit(f"The image has vLLM {found}; DRR supports {allowed}. Choose another VLLM_VERSION.")


def installed() -> dict[str, str]:
    """The versions of all packages that this Python has, by their names as pip compares them."""
    from packaging.utils import canonicalize_name
    from packaging.version import InvalidVersion, Version

    found: dict[str, str] = {}
    for package in distributions():
        try:
            found.setdefault(canonicalize_name(package.metadata["Name"]), str(Version(package.version)))
        except (InvalidVersion, TypeError):  # a system's package with a version of its own kind, a damaged one
            continue
    return found


def make_for_cpu(environment: Path) -> None:
    """An environment of its own."""
    venv.create(environment, with_pip=True)
    install_for_cpu(environment, *requirements("cpu"))


def make_on_top(environment: Path) -> None:
    """An environment that sees this Python's packages and adds those that are missing. SystemExit where vLLM is not
    there, is not supported, or where a package of the image would have to be replaced."""
    try:
        check_supported(version("vllm"))
    except PackageNotFoundError:
        raise SystemExit("This Python has no vLLM: the image is not one of vLLM's.") from None
    there = installed()
    venv.EnvBuilder(with_pip=True, system_site_packages=True).create(environment)
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as pins:
        pins.writelines(f"{name}=={found}\n" for name, found in there.items() if name != "pip")
        pins.flush()
        pip(environment, "install", "-q", "--constraint", pins.name, *requirements())
    twice = sorted(there.keys() & added(environment) - set(BROUGHT_BY_VENV))
    if twice:
        raise SystemExit(f"Installed a second time beside the image's own: {', '.join(twice)}")


def added(environment: Path) -> set[str]:
    """The names of the packages that lie in `environment` itself."""
    from packaging.utils import canonicalize_name

    command = [str(environment / "bin" / "python"), "-m", "pip", "list", "--local", "--format", "json"]
    listed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    return {str(canonicalize_name(package["name"])) for package in json.loads(listed)}


def main(arguments: Sequence[str]) -> None:
    """Make what is asked for."""
    kinds = {"cpu": make_for_cpu, "cuda": make_on_top}
    if len(arguments) != 2 or arguments[0] not in kinds:
        raise SystemExit(__doc__)
    try:
        kinds[arguments[0]](Path(arguments[1]))
    except subprocess.CalledProcessError as error:
        raise SystemExit(f"failed: {' '.join(error.cmd)}") from None


if __name__ == "__main__":
    main(sys.argv[1:])
