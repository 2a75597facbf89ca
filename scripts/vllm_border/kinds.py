"""The kinds of objects that expressions can be told to be."""

import ast
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from .sources import Definition, Module
from .syntax import FunctionNode


@dataclass(frozen=True, slots=True)
class Instance:
    """An object of a class."""

    of: Definition


@dataclass(frozen=True, slots=True)
class ClassObject:
    """A class."""

    of: Definition


@dataclass(frozen=True, slots=True)
class Above:
    """What `super()` gives in a class."""

    of: Definition


@dataclass(frozen=True, slots=True)
class Callee:
    """A function; `bound` where its first parameter is given already, `receiver` the class that it was taken from."""

    of: Definition
    bound: bool = False
    receiver: Definition | None = None


@dataclass(frozen=True, slots=True)
class Holder:
    """Something that holds other things: its elements, key and value, parts, its result, what `with` gives."""

    kind: Literal["elements", "mapping", "tuple", "awaitable", "callable", "manager"]
    parts: tuple["Type", ...]


@dataclass(frozen=True, slots=True)
class Parsed:
    """Command line arguments (argparse.Namespace)."""


@dataclass(frozen=True, slots=True)
class Nothing:
    """None."""


@dataclass(frozen=True, slots=True)
class Either:
    """One of several."""

    members: tuple["Known", ...]


Known = Instance | ClassObject | Above | Callee | Holder | Parsed | Nothing | Either | Module
Type = Known | None
"""None: not known."""


def either(types: Iterable[Type]) -> Type:
    """One of these; not known where one of them is not."""
    members: list[Known] = []
    for own in types:
        if own is None:
            return None
        members.extend(own.members if isinstance(own, Either) else [own])
    unique = tuple(dict.fromkeys(members))
    return unique[0] if len(unique) == 1 else Either(unique) if unique else None


def singles(of: Type) -> tuple[Known, ...]:
    """The alternatives, None among them left out."""
    members = of.members if isinstance(of, Either) else () if of is None else (of,)
    return tuple(own for own in members if not isinstance(own, Nothing))


def function_of(of: Definition) -> FunctionNode | None:
    """The function that a name stands for."""
    return of.node if isinstance(of.node, ast.FunctionDef | ast.AsyncFunctionDef) else None
