"""Comments that say for which versions of vLLM a piece of our code is: `# vllm>=0.33`, `# vllm<0.33`."""

import ast
import re

from .sources import Module
from .syntax import blocks

_MARK = re.compile(r"#.*?\bvllm\s*(>=|<)\s*(\d+(?:\.\d+)*)")
_UNDECLARED = re.compile(r"#.*type: ignore\[[^\]]*attr-defined")
_UNDECLARED_ARGUMENT = re.compile(r"#.*type: ignore\[[^\]]*call-arg")
_OVERRIDES = re.compile(r"#.*type: ignore\[[^\]]*override")


def numbers(version: str) -> tuple[int, ...]:
    """`0.33.0rc1` as (0, 33, 0)."""
    return tuple(int(own) for own in re.findall(r"\d+", re.split(r"[a-z+]", version)[0]))


def lines_for_others(module: Module, version: str) -> set[int]:
    """The lines of our module that are not for this version of vLLM.

    A mark on a simple statement is about that statement, or about the element of a list in it that it stands at; on a
    line that opens a block (`if`, `else`, `except`, `def`) about that block.
    """
    found: set[int] = set()
    for number, line in enumerate(module.text.splitlines(), 1):
        mark = _MARK.search(line)
        if mark is None or not line.partition("#")[0].strip() or not numbers(version):
            continue
        newer = numbers(version) >= numbers(mark[2])
        if newer != (mark[1] == ">="):
            found.update(_about(module, number))
    return found


def _about(module: Module, line: int) -> range:
    around = [
        own
        for own in ast.walk(module.tree)
        if isinstance(own, ast.stmt) and own.lineno <= line <= (own.end_lineno or own.lineno)
    ]
    if not around:
        return range(line, line + 1)
    smallest = min(around, key=lambda own: (own.end_lineno or own.lineno) - own.lineno)
    opened = [block for block in blocks(smallest) if block and block[0].lineno > line]
    if not opened:
        if list(blocks(smallest)):  # the last line of a block
            return range(line, line + 1)
        lists = [own for own in ast.walk(smallest) if isinstance(own, ast.Tuple | ast.List)]
        for element in (own for listed in lists for own in listed.elts):
            if element.lineno <= line <= (element.end_lineno or line):
                return range(element.lineno, (element.end_lineno or line) + 1)
        return range(smallest.lineno, (smallest.end_lineno or line) + 1)
    block = min(opened, key=lambda own: own[0].lineno)
    return range(min(line, *(own.lineno for own in block)), (block[-1].end_lineno or line) + 1)


def says_undeclared(module: Module, line: int) -> bool:
    """Whether the line admits that it uses an attribute that is not declared."""
    return _UNDECLARED.search(_line(module, line)) is not None


def says_undeclared_argument(module: Module, line: int) -> bool:
    """Whether the line admits that it gives an argument that is not declared: a field that a model merely lets in."""
    return _UNDECLARED_ARGUMENT.search(_line(module, line)) is not None


def says_override(module: Module, line: int) -> bool:
    """Whether the line admits that it overrides something in another shape."""
    return _OVERRIDES.search(_line(module, line)) is not None


def _line(module: Module, line: int) -> str:
    lines = module.text.splitlines()
    return lines[line - 1] if 0 < line <= len(lines) else ""
