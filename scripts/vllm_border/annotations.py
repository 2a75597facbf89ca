"""What annotations say."""

import ast

from .kinds import ClassObject, Holder, Instance, Nothing, Parsed, Type, either, singles
from .sources import Definition, Foreign, Found, Module, Sources

_ELEMENTS = (
    *("list", "List", "Sequence", "MutableSequence", "Iterable", "Iterator", "Collection", "Set", "set", "frozenset"),
    *("FrozenSet", "AsyncIterator", "AsyncIterable", "AsyncGenerator", "Generator", "deque", "MutableSet"),
)
_MAPPINGS = ("dict", "Dict", "Mapping", "MutableMapping", "OrderedDict", "defaultdict")
_AWAITABLES = ("Awaitable", "Coroutine", "Task", "Future")
_TRANSPARENT = ("Annotated", "ClassVar", "Final", "Required", "NotRequired", "InitVar")


class Annotations:
    """Reads the annotations of some sources."""

    def __init__(self, sources: Sources) -> None:
        self._sources = sources
        self._under_way: set[ast.expr] = set()

    def of(self, node: ast.expr | None, module: Module, receiver: Definition | None = None) -> Type:
        """What an annotation says."""
        match node:
            case ast.Constant(value=None):
                return Nothing()
            case ast.Constant(value=str(text)):
                try:
                    return self.of(ast.parse(text, mode="eval").body, module, receiver)
                except SyntaxError:
                    return None
            case ast.BinOp(op=ast.BitOr(), left=left, right=right):
                return either(self.of(own, module, receiver) for own in (left, right))
            case ast.Subscript(value=value, slice=inner):
                found = self._sources.find(value, module)
                parts = inner.elts if isinstance(inner, ast.Tuple) else [inner]
                if isinstance(found, Foreign):
                    return self._generic(found.last, parts, module, receiver)
                return self._meant(found, receiver)
            case ast.Name() | ast.Attribute():
                return self._meant(self._sources.find(node, module), receiver)
        return None

    def _meant(self, found: Found | None, receiver: Definition | None) -> Type:
        match found:
            case Definition(node=ast.ClassDef()):
                return Instance(found)
            case Definition(node=ast.expr() as alias):
                if alias in self._under_way:
                    return None
                self._under_way.add(alias)
                try:
                    return self.of(alias, found.module, receiver)
                finally:
                    self._under_way.discard(alias)
            case Foreign(path="argparse.Namespace"):
                return Parsed()
            case Foreign(path="typing.Self" | "typing_extensions.Self") if receiver is not None:
                return Instance(receiver)
        return None

    def _generic(self, name: str, parts: list[ast.expr], module: Module, receiver: Definition | None) -> Type:
        def inner(index: int) -> Type:
            return self.of(parts[index], module, receiver) if index < len(parts) else None

        if name == "Optional":
            return either((inner(0), Nothing()))
        if name == "Union":
            return either(inner(index) for index in range(len(parts)))
        if name in _TRANSPARENT:
            return inner(0)
        if name in ("type", "Type"):
            found = tuple(ClassObject(own.of) for own in singles(inner(0)) if isinstance(own, Instance))
            return either(found)
        if name in ("tuple", "Tuple"):
            endless = len(parts) == 2 and isinstance(parts[1], ast.Constant)
            kinds = tuple(inner(index) for index in range(len(parts)))
            return Holder("elements", kinds[:1]) if endless else Holder("tuple", kinds)
        if name in _ELEMENTS:
            return Holder("elements", (inner(0),))
        if name in _MAPPINGS:
            return Holder("mapping", (inner(0), inner(1)))
        if name in _AWAITABLES:
            return Holder("awaitable", (inner(len(parts) - 1),))
        if name in ("Callable",):
            return Holder("callable", (inner(1),))
        if name in ("AbstractContextManager", "AbstractAsyncContextManager"):
            return Holder("manager", (inner(0),))
        return None
