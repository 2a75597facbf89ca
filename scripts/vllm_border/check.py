"""All checks of our code against one version of vLLM."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from .arguments import learn_arguments
from .findings import Findings
from .imports import check_imports
from .inference import Inference
from .marks import lines_for_others
from .shapes import Shapes
from .sources import Module, Sources
from .touched import check_touched
from .uses import Uses
from .wheel import Release

PACKAGE = "vllm"
OURS = ("drr", "server", "clients", "benchmarks")
"""The packages of ours that are read, those that are there."""


def check_release(release: Release, root: Path, packages: Sequence[str] = OURS) -> Findings:
    """What our packages under `root` want of this release, and what is wrong with it."""
    ours = [name for name in packages if (root / name).is_dir()]
    folders = {PACKAGE: release.folder / PACKAGE, **{name: root / name for name in ours}}
    sources = Sources(folders, shown_from=root)
    inference = Inference(Shapes(sources))
    modules = [module for name in ours for module in _modules(sources, root / name, name)]
    known = learn_arguments(modules, inference, PACKAGE)
    findings = Findings()
    for module in modules:
        skipped = lines_for_others(module, release.version)
        check_imports(module, sources, PACKAGE, skipped, findings)
        Uses(module, inference, known, PACKAGE, skipped, findings).check()
        check_touched(module, inference, skipped, findings)
    return findings


def _modules(sources: Sources, folder: Path, package: str) -> Iterator[Module]:
    for file in sorted(folder.rglob("*.py")):
        parts = file.relative_to(folder).with_suffix("").parts
        name = ".".join((package, *(parts[:-1] if parts[-1] == "__init__" else parts)))
        module = sources.module(name)
        if module is not None:
            yield module
