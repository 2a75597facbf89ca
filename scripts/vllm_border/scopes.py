"""What gives the local names of functions and comprehensions their values."""

import ast
from collections.abc import Iterator
from dataclasses import dataclass

from .sources import Definition, Imported, Module, imported_names
from .syntax import FunctionNode, decorators, dotted

Comprehension = ast.ListComp | ast.SetComp | ast.GeneratorExp | ast.DictComp
Scoped = FunctionNode | ast.Lambda | Comprehension
SCOPED = (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda, ast.ListComp, ast.SetComp, ast.GeneratorExp, ast.DictComp)


@dataclass(frozen=True, slots=True)
class Annotated:
    """A name with an annotation."""

    node: ast.expr


@dataclass(frozen=True, slots=True)
class Value:
    """The value of an expression."""

    node: ast.expr


@dataclass(frozen=True, slots=True)
class Element:
    """What iterating over an expression gives."""

    node: ast.expr


@dataclass(frozen=True, slots=True)
class Entered:
    """What `with` on an expression gives."""

    node: ast.expr


@dataclass(frozen=True, slots=True)
class Caught:
    """An exception of the classes that an expression names."""

    node: ast.expr


@dataclass(frozen=True, slots=True)
class Part:
    """One part of a tuple."""

    whole: "Origin"
    index: int


@dataclass(frozen=True, slots=True)
class Receiver:
    """`self`, or `cls` where `is_class`."""

    owner: Definition
    is_class: bool


@dataclass(frozen=True, slots=True)
class Local:
    """A class or function that is defined in a function."""

    node: ast.ClassDef | FunctionNode


@dataclass(frozen=True, slots=True)
class Unknown:
    """Nothing is known of it."""


Origin = Annotated | Value | Element | Entered | Caught | Part | Receiver | Local | Imported | Unknown


class Scope:
    """The names of one function or comprehension; without a `node`, those of a module."""

    def __init__(
        self, module: Module, node: Scoped | None = None, outer: "Scope | None" = None, owner: Definition | None = None
    ) -> None:
        self.module, self.node, self.outer, self.owner = module, node, outer, owner
        self.origins: dict[str, list[Origin]] = {}
        self._tested: dict[str, list[ast.expr]] = {}
        self._asked: set[tuple[str, str]] = set()
        if node is not None:
            self._note_tests(node)
            for name, origin in self._collected(node):
                self.origins.setdefault(name, []).append(origin)

    def origins_of(self, name: str) -> tuple["Scope", list[Origin]] | None:
        """Where the name gets its value; None where it is the module's."""
        scope: Scope | None = self
        while scope is not None:
            if name in scope.origins:
                return scope, scope.origins[name]
            scope = scope.outer
        return None

    def tested(self, expression: str) -> list[ast.expr]:
        """The classes that a dotted expression is tested for, here or around: it may be one of them after all."""
        around = self.outer.tested(expression) if self.outer is not None else []
        return [*self._tested.get(expression, ()), *around]

    def asked(self, expression: str, attribute: str) -> bool:
        """Whether the code asks first (`hasattr`) if what is behind a dotted expression has this attribute."""
        return (expression, attribute) in self._asked or (
            self.outer is not None and self.outer.asked(expression, attribute)
        )

    def _note_tests(self, node: ast.AST) -> None:
        for own in ast.walk(node):
            match own:
                case ast.Call(func=ast.Name(id="isinstance"), args=[subject, kinds]):
                    listed = kinds.elts if isinstance(kinds, ast.Tuple) else [kinds]
                    self._tested.setdefault(dotted(subject) or "", []).extend(listed)
                case ast.Match(subject=subject):
                    listed = [part.cls for part in ast.walk(own) if isinstance(part, ast.MatchClass)]
                    self._tested.setdefault(dotted(subject) or "", []).extend(listed)
                case ast.Call(func=ast.Name(id="hasattr"), args=[subject, ast.Constant(value=str(name))]):
                    self._asked.add((dotted(subject) or "", name))

    def class_around(self) -> Definition | None:
        """The class in one of whose methods this is."""
        scope: Scope | None = self
        while scope is not None and scope.owner is None:
            scope = scope.outer
        return scope.owner if scope is not None else None

    def _collected(self, node: Scoped) -> Iterator[tuple[str, Origin]]:
        if isinstance(node, Comprehension):
            for part in node.generators:
                yield from bound(part.target, Element(part.iter))
            return
        args = node.args
        for index, own in enumerate((*args.posonlyargs, *args.args, *args.kwonlyargs)):
            if index == 0 and self.owner is not None and not isinstance(node, ast.Lambda):
                names = decorators(node)
                if "staticmethod" not in names:
                    yield own.arg, Receiver(self.owner, "classmethod" in names or node.name == "__new__")
                    continue
            yield own.arg, Annotated(own.annotation) if own.annotation is not None else Unknown()
        for extra in (args.vararg, args.kwarg):
            if extra is not None:
                yield extra.arg, Unknown()
        for child in node.body if isinstance(node.body, list) else [node.body]:
            yield from self._in(child)

    def _in(self, node: ast.AST) -> Iterator[tuple[str, Origin]]:
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.name, Local(node)
                return
            case ast.Lambda() | ast.ListComp() | ast.SetComp() | ast.GeneratorExp() | ast.DictComp():
                return
            case ast.Assign(targets=targets, value=value):
                for target in targets:
                    yield from bound(target, Value(value))
            case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation):
                yield name, Annotated(annotation)
            case ast.NamedExpr(target=ast.Name(id=name), value=value):
                yield name, Value(value)
            case ast.For(target=target, iter=iterated) | ast.AsyncFor(target=target, iter=iterated):
                yield from bound(target, Element(iterated))
            case ast.withitem(context_expr=entered, optional_vars=ast.expr() as target):
                yield from bound(target, Entered(entered))
            case ast.ExceptHandler(type=ast.expr() as caught, name=str(name)):
                yield name, Caught(caught)
            case ast.MatchAs(name=str(name)) | ast.MatchStar(name=str(name)):
                yield name, Unknown()
            case ast.MatchMapping(rest=str(name)):
                yield name, Unknown()
            case ast.Global(names=names) | ast.Nonlocal(names=names):
                for name in names:
                    yield name, Unknown()
            case ast.Import() | ast.ImportFrom():
                yield from imported_names(node, self.module)
        for child in ast.iter_child_nodes(node):
            yield from self._in(child)


def bound(target: ast.expr, origin: Origin) -> Iterator[tuple[str, Origin]]:
    """The names in the target of an assignment."""
    match target:
        case ast.Name(id=name):
            yield name, origin
        case ast.Tuple(elts=targets) | ast.List(elts=targets):
            for index, inner in enumerate(targets):
                if isinstance(inner, ast.Starred):
                    yield from bound(inner.value, Unknown())
                else:
                    yield from bound(inner, Part(origin, index))
