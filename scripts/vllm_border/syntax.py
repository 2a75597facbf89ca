"""Small questions about pieces of Python code."""

import ast
from collections.abc import Iterator

FunctionNode = ast.FunctionDef | ast.AsyncFunctionDef


def dotted(node: ast.expr) -> str | None:
    """`a.b.c` as text, None for any other expression."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        before = dotted(node.value)
        return None if before is None else f"{before}.{node.attr}"
    return None


def blocks(statement: ast.stmt | ast.ExceptHandler | ast.match_case) -> Iterator[list[ast.stmt]]:
    """The blocks of a compound statement: body, orelse, handlers' bodies, finalbody, cases' bodies."""
    for name in ("body", "handlers", "cases", "orelse", "finalbody"):
        inner: list[ast.AST] = getattr(statement, name, [])
        if name in ("handlers", "cases"):
            for own in inner:
                if isinstance(own, ast.ExceptHandler | ast.match_case):
                    yield own.body
        elif inner:
            yield [own for own in inner if isinstance(own, ast.stmt)]


def for_typing(test: ast.expr) -> bool:
    """Whether this is the test `TYPE_CHECKING`."""
    return (dotted(test) or "").rpartition(".")[2] == "TYPE_CHECKING"


def is_overload(node: ast.ClassDef | FunctionNode) -> bool:
    """Whether this is one of a function's declared shapes, and not the function."""
    return any((dotted(own) or "").rpartition(".")[2] == "overload" for own in node.decorator_list)


def decorators(node: FunctionNode | ast.ClassDef) -> set[str]:
    """The last names of the decorators: `functools.cached_property` gives `cached_property`."""
    called = [own.func if isinstance(own, ast.Call) else own for own in node.decorator_list]
    return {(dotted(own) or "").rpartition(".")[2] for own in called}


def is_property(node: FunctionNode) -> bool:
    return any(name.endswith("property") or name == "setter" for name in decorators(node))


def is_generator(node: FunctionNode) -> bool:
    """Whether the function itself, not one inside it, yields."""
    waiting: list[ast.AST] = list(node.body)
    while waiting:
        own = waiting.pop()
        if isinstance(own, ast.Yield | ast.YieldFrom):
            return True
        if not isinstance(own, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda | ast.ClassDef):
            waiting.extend(ast.iter_child_nodes(own))
    return False
