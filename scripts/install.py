"""Make the virtual environment, with the vLLM and the torch that fit this host.

    python3 scripts/install.py .venv

Does nothing if the environment is already what this file and pyproject.toml ask for.
"""

import hashlib
import os
import platform
import queue
import re
import shutil
import subprocess
import sys
import threading
import time
import venv
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TORCH = "torch==2.13.0+cpu"
TORCH_CPU_INDEX = "https://download.pytorch.org/whl/cpu"
CUDA_BUILT = ("torchvision", "torchaudio", "torchcodec")
"""Packages that vLLM's CPU build requires but that exist for CUDA only and fail on import without it. Text models do
not need them."""


EXPECTED = {
    False: "It downloads about 1.1 GB (some 200 packages) and takes some 4.5 GB of disk. The download alone took six "
    "minutes on a busy machine of two cores.",
    True: "It downloads vLLM and CUDA's libraries, several gigabytes, and takes minutes (not measured).",
}
"""What the set-up takes, by whether there is a GPU."""


def unsupported() -> str | None:
    """One sentence on why this host cannot be used, or None if it can."""
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        return f"Python 3.11, 3.12 or 3.13 is needed, and this is {platform.python_version()}; set PYTHON=..."
    if platform.system() != "Linux":
        return f"vLLM runs on Linux, and this is {platform.system()}; use a Linux machine, WSL or a container."
    if platform.machine() not in ("x86_64", "aarch64"):
        return f"vLLM is built for x86_64 and aarch64, and this machine is {platform.machine()}."
    return None


def has_cuda() -> bool:
    """Whether nvidia-smi lists a GPU."""
    if shutil.which("nvidia-smi") is None:
        return False
    listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True, check=False)
    return listed.returncode == 0 and "GPU" in listed.stdout


def wanted(cuda: bool) -> str:
    """A key of what the environment should hold."""
    digest = hashlib.sha256(f"{cuda} {sys.version_info[:2]}".encode())
    for path in (ROOT / "pyproject.toml", Path(__file__)):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def install(environment: Path, cuda: bool) -> None:
    """Create `environment` and install everything into it; CalledProcessError if pip fails."""
    venv.create(environment, with_pip=True)
    if cuda:
        pip(environment, "install", "-e", f"{ROOT}[gpu,train,dev]")
    else:
        install_for_cpu(environment, "-e", f"{ROOT}[cpu,train,dev]")


def install_for_cpu(environment: Path, *packages: str) -> None:
    """Install `packages`, vLLM's CPU build among them, and the torch that it is built for."""
    # First try a CPU build that pip finds as it is configured (a local folder of wheels, a mirror).
    if pip(environment, "install", TORCH, check=False) != 0:
        pip(environment, "install", TORCH, "--extra-index-url", TORCH_CPU_INDEX)
    pip(environment, "install", *packages)
    pip(environment, "uninstall", "-q", "-y", *CUDA_BUILT)


def pip(environment: Path, *arguments: str, check: bool = True) -> int:
    """Run the environment's pip and tell how far it is; returns its exit status. CalledProcessError if it fails and
    `check` is true."""
    command = [str(environment / "bin" / "python"), "-m", "pip", "--disable-pip-version-check", *arguments]
    unbuffered = {**os.environ, "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, errors="replace", env=unbuffered) as process:
        assert process.stdout is not None
        follow(process.stdout, lambda: sum(1 for _ in environment.glob("lib/python3*/site-packages/*.dist-info")))
    if check and process.returncode != 0:
        raise subprocess.CalledProcessError(process.returncode, command)
    return process.returncode


_PACKAGE = re.compile(
    r"^\s*(?:Downloading|Using cached|Processing) (?:.*/)?(?P<name>[^/\s]+?\.(?:whl|tar\.gz|zip))"
    r"(?: \((?P<size>[\d.]+) (?P<unit>[kMG]B)\))?$"
)
"""A line of pip's that tells of a package that it fetches."""

_BYTES = {"kB": 1e3, "MB": 1e6, "GB": 1e9}
_SECONDS_BETWEEN_LINES = 15.0
_SECONDS_OF_SILENCE = 5.0
"""pip says nothing while it unpacks; after so long the packages that are there are counted."""


def follow(output: Iterable[str], unpacked: Callable[[], int] = lambda: 0) -> None:
    """Make of pip's output one line that changes on a terminal, and a line now and then elsewhere. `unpacked` counts
    the packages that are in the environment."""
    live = sys.stdout.isatty()
    begun = last = time.monotonic()
    packages, size, doing = 0, 0.0, ""
    before, wanted = 0, 0
    for line in _with_pauses(output):
        now = time.monotonic()
        due = live or now - last > _SECONDS_BETWEEN_LINES
        if line is None:
            if not wanted:
                continue
            doing = f"unpacked {unpacked() - before} of {wanted}"
        elif (found := _PACKAGE.match(line.rstrip())) is not None:
            packages += 1
            size += float(found["size"]) * _BYTES[found["unit"]] if found["size"] else 0.0
            doing = found["name"].partition("-")[0]
        elif line.startswith("Installing collected packages"):
            before, wanted = unpacked(), line.count(",") + 1
            doing, due = "unpacking, the longest part", True
        else:
            continue
        if due:
            last = now
            told = f"  {packages} packages, {size / 1e9:.2f} GB, {now - begun:.0f} s: {doing}"
            print(f"\r\x1b[K{told}" if live else told, end="" if live else "\n", flush=True)
    if live:
        print("\r\x1b[K", end="", flush=True)


def _with_pauses(output: Iterable[str]) -> Iterator[str | None]:
    """The lines, and None whenever none has come for a while."""
    lines: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in output:
            lines.put(line)
        lines.put("")  # the end; every line has at least its line break

    threading.Thread(target=read, daemon=True).start()
    while True:
        try:
            line = lines.get(timeout=_SECONDS_OF_SILENCE)
        except queue.Empty:
            yield None
            continue
        if not line:
            return
        yield line


def main() -> int:
    environment = Path(sys.argv[1] if len(sys.argv) > 1 else ".venv").absolute()
    problem = unsupported()
    if problem is not None:
        print(f"drr: {problem}", file=sys.stderr)
        return 1
    cuda = has_cuda()
    marker, want = environment / ".installed", wanted(cuda)
    if marker.exists() and marker.read_text() == want:
        return 0
    print(f"Setting up {environment} for {'CUDA' if cuda else 'CPU'}. {EXPECTED[cuda]} Once.", flush=True)
    begun = time.monotonic()
    try:
        install(environment, cuda)
    except subprocess.CalledProcessError as error:
        print(f"drr: installation failed: {' '.join(error.cmd)}", file=sys.stderr)
        return 1
    marker.write_text(want)
    print(f"Set up in {time.monotonic() - begun:.0f} s. Later starts install nothing.", flush=True)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
