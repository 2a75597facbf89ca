"""What functions take and what classes have, read from their source."""

import ast
import importlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .fields import Field, fields_of
from .sources import Definition, Foreign, Sources
from .syntax import FunctionNode, decorators, dotted

_PYDANTIC = {"pydantic.BaseModel", "pydantic.main.BaseModel"}
_STRUCT = {"msgspec.Struct"}
_EMPTY = {"ABC", "Generic", "Protocol", "object", "NamedTuple", "TypedDict", "Enum", "IntEnum", "StrEnum", "Exception"}
"""Classes of the standard library whose instances have nothing but what the class says."""

_PYDANTIC_NAMES = {"dict", "json", "copy", "construct", "parse_obj", "schema", "validate", "update_forward_refs"}


@dataclass(frozen=True, slots=True)
class Parameters:
    """What a callable takes; `given` are the names of those that may be given by position, in order."""

    given: tuple[str, ...] = ()
    position_only: int = 0
    keywords: tuple[str, ...] = ()
    required: frozenset[str] = frozenset()
    more_given: bool = False
    more_keywords: bool = False

    @property
    def named(self) -> set[str]:
        """Those that may be given by name."""
        return {*self.given[self.position_only :], *self.keywords}

    def without_first(self) -> "Parameters":
        """As the bound method takes them."""
        first, rest = self.given[:1], self.given[1:]
        return Parameters(
            rest,
            max(0, self.position_only - 1),
            self.keywords,
            self.required - set(first),
            self.more_given,
            self.more_keywords,
        )

    def faults(self, call: ast.Call) -> list[str]:
        """What this call gets wrong."""
        starred = any(isinstance(own, ast.Starred) for own in call.args)
        count = sum(not isinstance(own, ast.Starred) for own in call.args)
        names = [own.arg for own in call.keywords if own.arg is not None]
        spread = len(names) < len(call.keywords)
        found = []
        if count > len(self.given) and not self.more_given:
            found.append(f"takes at most {len(self.given)} positional arguments, {count} are given")
        if not self.more_keywords:
            found += [f"parameter {name} is gone" for name in names if name not in self.named]
        found += [f"parameter {name} is given twice" for name in names if name in self.given[:count]]
        if not starred and not spread:
            missing = [name for name in (*self.given[count:], *self.keywords) if name in self.required - set(names)]
            found += [f"parameter {name} is required and not given" for name in missing]
        return found


def parameters_of(node: FunctionNode) -> Parameters:
    """As the function itself takes them, `self` included."""
    args = node.args
    given = [own.arg for own in (*args.posonlyargs, *args.args)]
    needed = given[: len(given) - len(args.defaults)]
    needed += [own.arg for own, value in zip(args.kwonlyargs, args.kw_defaults, strict=True) if value is None]
    return Parameters(
        tuple(given),
        len(args.posonlyargs),
        tuple(own.arg for own in args.kwonlyargs),
        frozenset(needed),
        args.vararg is not None,
        args.kwarg is not None,
    )


@dataclass(frozen=True, slots=True)
class Member:
    """One statement that gives a class an attribute. `inside`: the method that assigns it to `self`."""

    owner: Definition
    name: str
    function: FunctionNode | None = None
    nested: ast.ClassDef | None = None
    annotation: ast.expr | None = None
    value: ast.expr | None = None
    inside: FunctionNode | None = None


Line = tuple[Definition | Foreign | None, ...]
"""A class and those it inherits from, nearest first; None for one that could not be followed."""


class Shapes:
    """The classes of some sources."""

    def __init__(self, sources: Sources) -> None:
        self.sources = sources
        self._lines: dict[Definition, Line] = {}
        self._members: dict[Definition, dict[str, list[Member]]] = {}

    def line(self, of: Definition) -> Line:
        """The class and its bases, each once, a base behind all that inherit from it."""
        if of not in self._lines:
            self._lines[of] = (of,)  # a class among its own bases
            whole: list[Definition | Foreign | None] = [of]
            for base in of.node.bases if isinstance(of.node, ast.ClassDef) else ():
                whole.extend(self._base(base, of))
            self._lines[of] = tuple(reversed(list(dict.fromkeys(reversed(whole)))))
        return self._lines[of]

    def _base(self, node: ast.expr, of: Definition) -> Line:
        if isinstance(node, ast.Subscript):
            node = node.value
        found = self.sources.find(node, of.module)
        if isinstance(found, Definition):
            if isinstance(found.node, ast.ClassDef):
                return self.line(found)
            return self._base(found.node, found) if isinstance(found.node, ast.expr) else (None,)
        return (found,) if isinstance(found, Foreign) else (None,)

    def own(self, of: Definition) -> dict[str, list[Member]]:
        """What the class itself says it has, and what its methods assign to `self`."""
        if of not in self._members:
            found: dict[str, list[Member]] = {}
            if isinstance(of.node, ast.ClassDef):
                for member in _stated(of, of.node.body):
                    found.setdefault(member.name, []).append(member)
            self._members[of] = found
        return self._members[of]

    def members(self, line: Line, name: str) -> Iterator[Member]:
        """All that give `name` to a class of this line, nearest first."""
        for own in line:
            if isinstance(own, Definition):
                yield from self.own(own).get(name, ())

    def has(self, line: Line, name: str) -> bool | None:
        """Whether such an object has this attribute; None where that cannot be seen."""
        if next(self.members(line, name), None) is not None or hasattr(object, name):
            return True
        verdicts = [_foreign_has(own, name) for own in line if not isinstance(own, Definition)]
        hooks = next(self.members(line, "__getattr__"), None) or next(self.members(line, "__getattribute__"), None)
        if True in verdicts or name in ("__dict__", "__name__", "__module__", "__qualname__", "__annotations__"):
            return True
        return None if None in verdicts or hooks is not None else False

    def init(self, of: Definition) -> tuple[Definition, Parameters] | None:
        """What making an instance takes, and the class that says so; None where that cannot be seen."""
        line = self.line(of)
        foreign = {own.path for own in line if isinstance(own, Foreign)}
        for own in line:
            if isinstance(own, Definition):
                made = next((m.function for m in self.own(own).get("__init__", ()) if m.function), None)
                made = made or next((m.function for m in self.own(own).get("__new__", ()) if m.function), None)
                if made is not None:
                    return own, parameters_of(made).without_first()
                kind = self._kind(own, foreign)
                if kind is not None:
                    return own, self._from_fields(own, kind)
            elif own is None or (own.last not in _EMPTY or "Enum" in own.last or own.last == "Exception"):
                return None
        return of, Parameters()

    def _kind(self, of: Definition, foreign: set[str]) -> str | None:
        """How the class makes its `__init__` from its fields, None where it does not."""
        if foreign & _PYDANTIC:
            return "model"
        if foreign & _STRUCT:
            return "struct"
        if any(path.endswith(".NamedTuple") for path in foreign):
            return "tuple"
        if any(path.endswith(".TypedDict") for path in foreign):
            return "dict"
        for own in of.node.decorator_list if isinstance(of.node, ast.ClassDef) else ():
            decorator = own.func if isinstance(own, ast.Call) else own
            found = self.sources.find(decorator, of.module)
            if isinstance(found, Foreign) and found.last == "dataclass":
                return "dataclass"
            is_function = isinstance(found, Definition) and isinstance(found.node, ast.FunctionDef)
            if is_function and "dataclass_transform" in decorators(found.node):  # type: ignore[union-attr,arg-type]
                return "dataclass"
        return None

    def _from_fields(self, of: Definition, kind: str) -> Parameters:
        fields: dict[str, Field] = {}
        for own in reversed(self.line(of)):
            if isinstance(own, Definition) and isinstance(own.node, ast.ClassDef):
                fields.update((made.name, made) for made in fields_of(own.node, kind))
        by_name = [made for made in fields.values() if made.by_name]
        given = tuple(made.name for made in fields.values() if not made.by_name)
        names = tuple(name for made in by_name for name in (made.name, *made.aliases))
        required = frozenset(made.name for made in fields.values() if made.required and not made.aliases)
        return Parameters(given, 0, names, required, more_keywords=any(made.open for made in by_name))


def _stated(of: Definition, statements: Sequence[ast.stmt]) -> Iterator[Member]:
    for node in statements:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                yield Member(of, node.name, function=node)
                yield from _assigned_to_self(of, node)
            case ast.ClassDef():
                yield Member(of, node.name, nested=node)
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                yield Member(of, name, annotation=annotation, value=value)
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    for own in ast.walk(target):
                        if isinstance(own, ast.Name):
                            yield Member(of, own.id, value=value if own is target else None)
            case ast.If(body=body, orelse=orelse):
                yield from _stated(of, [*body, *orelse])
            case ast.Try(body=body, handlers=handlers):
                yield from _stated(of, [*body, *(own for handler in handlers for own in handler.body)])


def _assigned_to_self(of: Definition, method: FunctionNode) -> Iterator[Member]:
    if not method.args.args or "staticmethod" in decorators(method):
        return
    own = method.args.args[0].arg

    def assigned(target: ast.expr, value: ast.expr | None, annotation: ast.expr | None = None) -> Iterator[Member]:
        match target:
            case ast.Attribute(value=ast.Name(id=name), attr=attribute) if name == own:
                yield Member(of, attribute, annotation=annotation, value=value, inside=method)
            case ast.Tuple(elts=targets) | ast.List(elts=targets):
                values = value.elts if isinstance(value, ast.Tuple) and len(value.elts) == len(targets) else None
                for index, inner in enumerate(targets):
                    yield from assigned(inner, values[index] if values else None)

    for node in ast.walk(method):
        match node:
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    yield from assigned(target, value)
            case ast.AnnAssign(target=target, annotation=annotation, value=value):
                yield from assigned(target, value, annotation)
            case (
                ast.For(target=target) | ast.AsyncFor(target=target) | ast.withitem(optional_vars=ast.expr() as target)
            ):
                yield from assigned(target, None)
            case ast.Call(func=func, args=[ast.Name(id=name), ast.Constant(value=str(attribute)), *_]) if name == own:
                if (dotted(func) or "").endswith(("setattr", "__setattr__")):
                    yield Member(of, attribute, inside=method)


def _foreign_has(own: Foreign | Definition | None, name: str) -> bool | None:
    if not isinstance(own, Foreign):
        return None
    if own.path in _PYDANTIC:
        return name.startswith("model_") or name in _PYDANTIC_NAMES
    if own.path in _STRUCT:
        return name.startswith("__struct")
    module, _, last = own.path.rpartition(".")
    if last in ("TypedDict", "NamedTuple"):
        return hasattr(dict if last == "TypedDict" else tuple, name) or name.startswith("_")
    if module.partition(".")[0] not in sys.stdlib_module_names or module.startswith("typing_extensions"):
        return False if last in _EMPTY else None
    real = getattr(importlib.import_module(module), last, None)
    if not isinstance(real, type):
        return None
    if any(name in vars(base) for base in real.__mro__):
        return True
    return False if last in _EMPTY or module == "builtins" else None
