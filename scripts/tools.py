"""Command line tools with an environment of their own: what they need must not change what DRR runs with."""

import subprocess
import venv
from pathlib import Path


def tool(requirement: str, folder: Path) -> Path:
    """Where the programs of a tool such as `pip-audit==2.10.1` are: below `folder`, installed where it is missing.
    CalledProcessError if pip fails."""
    environment = folder / requirement.replace("==", "-")
    done = environment / "installed"
    if not done.exists():
        venv.create(environment, with_pip=True, clear=True)
        pip = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", "install", "-q"]
        subprocess.run([*pip, requirement], check=True)
        done.touch()
    return environment / "bin"
