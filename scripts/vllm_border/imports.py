"""The imports of vLLM's names in our code, fallbacks taken together."""

import ast
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from .findings import Findings
from .sources import Imported, Module, Sources, imported_names
from .syntax import blocks, dotted, for_typing

_FAILURES = {"ImportError", "ModuleNotFoundError", "Exception", "BaseException"}


@dataclass(slots=True)
class Wanted:
    """A name that our code gets from vLLM: from the first of these places that has it."""

    name: str
    places: list[tuple[int, Imported]] = field(default_factory=list)
    optional: bool = False
    """Whether the code goes on without it."""
    running: bool = True
    """Whether it is wanted at run time, not by type checkers only."""


def check_imports(module: Module, sources: Sources, package: str, skipped: set[int], findings: Findings) -> None:
    """Every name that this module imports from `package`."""
    for wanted in _wanted(module.tree.body, module, package, running=True):
        places = [(line, own) for line, own in wanted.places if line not in skipped]
        if not places:
            continue
        line, first = places[0]
        works = wanted.optional or any(_works(own, sources, running=wanted.running) for _, own in places)
        fault = _fault(first, sources)
        if len(places) > 1:
            others = ", ".join(_shown(own) for _, own in places[1:])
            fault += f" (and {others} is not there either)"
        findings.checked("imports", module.path, line, _shown(first), [] if works else [fault])


def _shown(own: Imported) -> str:
    return own.module if own.name is None else f"{own.module}.{own.name}"


def _works(own: Imported, sources: Sources, *, running: bool) -> bool:
    return sources.imported(own, running=running) is not None


def _fault(own: Imported, sources: Sources) -> str:
    if sources.module(own.module) is None:
        return f"there is no module {own.module}"
    if sources.imported(own) is not None:
        return "is there for type checkers only"
    return f"{own.module} has no {own.name}"


def _wanted(statements: Iterable[ast.stmt], module: Module, package: str, *, running: bool) -> list[Wanted]:
    found: list[Wanted] = []
    for node in statements:
        match node:
            case ast.Import(names=names):
                modules = [alias.name for alias in names if alias.name.partition(".")[0] == package]
                found.extend(Wanted(name, [(node.lineno, Imported(name, None))], running=running) for name in modules)
            case ast.ImportFrom():
                for name, imported in imported_names(node, module):
                    if imported.module.partition(".")[0] == package:
                        found.append(Wanted(name, [(node.lineno, imported)], running=running))
            case ast.If(test=test, body=body, orelse=orelse):
                first = _wanted(body, module, package, running=running and not for_typing(test))
                second = _wanted(orelse, module, package, running=running)
                found.extend(_merged(first, second))
            case ast.Try(body=body, handlers=handlers, orelse=orelse, finalbody=final):
                tried = _wanted(body, module, package, running=running)
                for handler in handlers:
                    instead = _wanted(handler.body, module, package, running=running)
                    if _catches_failure(handler):
                        replaced = {own.name for own in instead}
                        for own in tried:
                            own.optional = own.optional or (own.name not in replaced and not _raises(handler.body))
                        tried = _merged(tried, instead)
                    else:
                        tried += instead
                found.extend([*tried, *_wanted([*orelse, *final], module, package, running=running)])
            case _:
                for block in blocks(node):
                    found.extend(_wanted(block, module, package, running=running))
    return found


def _merged(first: list[Wanted], second: list[Wanted]) -> list[Wanted]:
    """One after the other; a name that both want is wanted from either."""
    by_name = {own.name: own for own in second}
    for own in first:
        other = by_name.pop(own.name, None)
        if other is not None:
            own.places += other.places
            own.optional = own.optional or other.optional
    return [*first, *by_name.values()]


def _catches_failure(handler: ast.ExceptHandler) -> bool:
    if handler.type is None:
        return True
    kinds = handler.type.elts if isinstance(handler.type, ast.Tuple) else [handler.type]
    return any((dotted(own) or "").rpartition(".")[2] in _FAILURES for own in kinds)


def _raises(statements: Sequence[ast.stmt]) -> bool:
    return isinstance(statements[-1], ast.Raise)
