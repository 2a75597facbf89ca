"""An environment of the clients' own: a virtual environment and a Node folder, with pinned versions."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).parent
_INSTALL_SECONDS = 1800
_OTHERS = ("OPENAI_", "ANTHROPIC_", "LITELLM_", "LANGCHAIN_", "LANGSMITH_", "LLM_", "HF_", "PYTHON")
"""What of the caller's environment would change what a client does."""


@dataclass(frozen=True)
class Client:
    """A client, the package that it comes in, and its driver in `drivers/`."""

    name: str
    package: str
    driver: str

    @property
    def node(self) -> bool:
        return self.driver.endswith(".mjs")


CLIENTS = (
    Client("openai-python", "openai", "openai_python.py"),
    Client("openai-node", "openai", "openai_node.mjs"),
    Client("anthropic", "anthropic", "anthropic_python.py"),
    Client("litellm", "litellm", "litellm_python.py"),
    Client("langchain-openai", "langchain-openai", "langchain_python.py"),
    Client("openai-agents", "openai-agents", "openai_agents_python.py"),
    Client("llm", "llm", "llm_python.py"),
    Client("lm-eval", "lm_eval", "lm_eval_python.py"),
)


class Environment:
    """The clients' environment in `folder`; nothing is written outside it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.resolve()
        self.python = self.folder / "venv" / "bin" / "python"
        self.node = self.folder / "node"
        self.code = self.folder / "code"

    def prepare(self, clients: Sequence[Client]) -> dict[str, str]:
        """Install the clients; returns why not, by name, for those that cannot be."""
        self.folder.mkdir(parents=True, exist_ok=True)
        self._copy_drivers()
        python = [client for client in clients if not client.node]
        missing = self._install_python(python) if python else {}
        if len(python) < len(clients):
            reason = self._install_node()
            missing |= {client.name: reason for client in clients if client.node and reason}
        return missing

    def _copy_drivers(self) -> None:
        """The drivers alone, as the package that they are, so that no other package of the project is found."""
        package = self.code / "clients" / "real"
        shutil.rmtree(self.code, ignore_errors=True)
        shutil.copytree(_HERE / "drivers", package / "drivers", ignore=shutil.ignore_patterns("__pycache__"))
        for folder in (package, package.parent):
            (folder / "__init__.py").touch()

    def _install_python(self, clients: Sequence[Client]) -> dict[str, str]:
        if not self.python.exists():
            reason = _failure([sys.executable, "-m", "venv", str(self.python.parents[1])])
            if reason:
                return {client.name: f"no virtual environment: {reason}" for client in clients}
        wanted = {client.name: _requirement(client.package) for client in clients}
        if not self._pip(*wanted.values()):
            return {}
        reasons = {name: self._pip(line) for name, line in wanted.items()}  # one by one, to keep those that can be had
        return {name: f"{wanted[name]} cannot be installed: {reason}" for name, reason in reasons.items() if reason}

    def _pip(self, *lines: str) -> str:
        return _failure([str(self.python), "-m", "pip", "install", "--disable-pip-version-check", "-q", *lines])

    def _install_node(self) -> str:
        """Why openai-node is not there; empty if it is."""
        npm = shutil.which("npm")
        if npm is None or shutil.which("node") is None:
            return "node and npm were not found"
        self.node.mkdir(exist_ok=True)
        shutil.copy(_HERE / "package.json", self.node)
        reason = _failure([npm, "install", "--no-audit", "--no-fund", "--silent"], self.node)
        return f"npm install failed: {reason}" if reason else ""

    def command(self, client: Client) -> list[str]:
        """What runs a client's driver, in `cwd(client)`; a job's file and a file to write come behind it."""
        if client.node:
            return ["node", str(self.code / "clients" / "real" / "drivers" / client.driver)]
        return [str(self.python), "-m", f"clients.real.drivers.{Path(client.driver).stem}"]

    def cwd(self, client: Client) -> Path:
        return self.node if client.node else self.work(client)

    def work(self, client: Client) -> Path:
        """A folder for what a client writes."""
        work = self.folder / "work" / client.name
        work.mkdir(parents=True, exist_ok=True)
        return work

    def variables(self, client: Client) -> dict[str, str]:
        """The environment variables of a driver: the caller's, without what other set-ups of a client left there."""
        own = {name: value for name, value in os.environ.items() if not name.startswith(_OTHERS)}
        return own | {
            "HOME": str(self.work(client)),
            "PYTHONPATH": str(self.code),
            "OPENAI_API_KEY": "none",
            "LITELLM_LOCAL_MODEL_COST_MAP": "True",
            "HF_HOME": str(self.folder / "huggingface"),
            "HF_HUB_OFFLINE": "1",
            "NO_PROXY": "127.0.0.1,localhost",
            "no_proxy": "127.0.0.1,localhost",
        }


def _requirement(package: str) -> str:
    """The pinned line of `package`."""
    return next(line for line in _lines() if line.partition("==")[0].partition("[")[0] == package)


def _lines() -> Iterator[str]:
    yield from (_HERE / "requirements.txt").read_text().split()


def _failure(command: list[str], cwd: Path | None = None) -> str:
    """The last line that a failing command said; empty where it succeeds."""
    try:
        done = subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=_INSTALL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        return str(error)
    if done.returncode == 0:
        return ""
    said = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
    errors = [line for line in said if line.upper().startswith(("ERROR", "NPM ERR"))]
    return (errors or said or [f"exit status {done.returncode}"])[-1]
