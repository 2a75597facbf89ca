"""What kind of object an expression is, as far as annotations and simple assignments tell."""

import ast

from .annotations import Annotations
from .kinds import Above, Callee, ClassObject, Holder, Instance, Known, Nothing, Parsed, Type, either, singles
from .scopes import Annotated, Caught, Element, Entered, Local, Origin, Part, Receiver, Scope, Scoped, Unknown, Value
from .shapes import Line, Member, Shapes
from .sources import Definition, Foreign, Found, Imported, Module
from .standard import of_standard_call
from .syntax import FunctionNode, decorators, dotted, is_generator, is_overload, is_property


class Inference:
    """Over some sources. `arguments` are vLLM's command line arguments, none where they are not known."""

    def __init__(self, shapes: Shapes) -> None:
        self.shapes, self.sources = shapes, shapes.sources
        self.annotations = Annotations(self.sources)
        self.arguments: dict[str, Type] = {}
        self._scopes: dict[ast.AST, Scope] = {}
        self._under_way: set[tuple[ast.AST | str, int]] = set()

    def scope(self, node: Scoped, outer: Scope, owner: Definition | None = None) -> Scope:
        """The scope of a function or comprehension that stands in another."""
        if node not in self._scopes:
            self._scopes[node] = Scope(outer.module, node, outer, owner)
        return self._scopes[node]

    def _from(self, origin: Origin, scope: Scope) -> Type:
        match origin:
            case Annotated(node=node):
                return self.annotations.of(node, scope.module, scope.class_around())
            case Value(node=node):
                return self.infer(node, scope)
            case Element(node=node):
                return self.element(self.infer(node, scope))
            case Entered(node=node):
                return self._entered(self.infer(node, scope))
            case Caught(node=node):
                kinds = node.elts if isinstance(node, ast.Tuple) else [node]
                found = [self.infer(own, scope) for own in kinds]
                return either(Instance(own.of) if isinstance(own, ClassObject) else None for own in found)
            case Part(whole=Value(node=ast.Tuple(elts=values)), index=index) if index < len(values):
                return self.infer(values[index], scope)
            case Part(whole=whole, index=index):
                return self._part(self._from(whole, scope), index)
            case Receiver(owner=owner, is_class=is_class):
                return ClassObject(owner) if is_class else Instance(owner)
            case Local(node=node):
                return self.type_of(Definition(scope.module, node.name, node))
            case Imported():
                return self.type_of(self.sources.imported(origin))
            case Unknown():
                return None

    def type_of(self, found: Found | None) -> Type:
        """What a module's name stands for."""
        match found:
            case Module():
                return found
            case Definition(node=ast.ClassDef()):
                return ClassObject(found)
            case Definition(node=ast.FunctionDef() | ast.AsyncFunctionDef()):
                return Callee(found)
            case Definition(annotation=ast.expr() as annotation):
                return self.annotations.of(annotation, found.module)
            case Definition(node=ast.expr() as value):
                return self.infer(value, Scope(found.module))
        return None

    def _named(self, name: str, scope: Scope) -> Type:
        local = scope.origins_of(name)
        if local is None:
            return self.type_of(self.sources.lookup(scope.module, name))
        where, origins = local
        said = [own for own in origins if isinstance(own, Annotated)]
        key = (name, id(where))
        if key in self._under_way:
            return None
        self._under_way.add(key)
        try:
            return either(self._from(own, where) for own in said or origins)
        finally:
            self._under_way.discard(key)

    def infer(self, node: ast.expr, scope: Scope) -> Type:
        """What kind of object this expression is."""
        match node:
            case ast.Constant(value=None):
                return Nothing()
            case ast.Name(id=name):
                return self._tested(node, scope, self._named(name, scope))
            case ast.Attribute(value=value, attr=name):
                return self._tested(node, scope, self.attribute(self.infer(value, scope), name))
            case ast.Call():
                return self._called(node, scope)
            case ast.Await(value=value):
                return self._awaited(self.infer(value, scope))
            case ast.Subscript(value=value, slice=index):
                return self._item(self.infer(value, scope), index)
            case ast.IfExp(body=body, orelse=orelse):
                return either((self.infer(body, scope), self.infer(orelse, scope)))
            case ast.BoolOp(values=values):
                return either(self.infer(own, scope) for own in values)
            case ast.NamedExpr(value=value):
                return self.infer(value, scope)
            case ast.Tuple(elts=parts):
                return Holder("tuple", tuple(self.infer(own, scope) for own in parts))
            case ast.List(elts=parts) | ast.Set(elts=parts):
                return Holder("elements", (either(self.infer(own, scope) for own in parts),))
            case ast.ListComp(elt=elt) | ast.SetComp(elt=elt) | ast.GeneratorExp(elt=elt):
                return Holder("elements", (self.infer(elt, self.scope(node, scope)),))
            case ast.DictComp(key=key, value=value):
                inner = self.scope(node, scope)
                return Holder("mapping", (self.infer(key, inner), self.infer(value, inner)))
        return None

    def _tested(self, node: ast.expr, scope: Scope, known: Type) -> Type:
        """What a dotted expression may be, with the classes that it is tested for."""
        kinds = scope.tested(dotted(node) or "") if known is not None else []
        found = [self.infer(own, scope) for own in kinds]
        return either((known, *(Instance(own.of) if isinstance(own, ClassObject) else None for own in found)))

    def attribute(self, of: Type, name: str) -> Type:
        """What an attribute is."""
        found: list[Type] = []
        for own in singles(of):
            match own:
                case Instance() | ClassObject() | Above():
                    line = self.line(own)
                    if next(self.shapes.members(line, name), None) is not None:
                        found.append(self._member(own, line, name))
                    elif self.shapes.has(line, name) is None:
                        found.append(None)
                case Module():
                    found.append(self.type_of(self.sources.lookup(own, name)))
                case Parsed():
                    found.append(self.arguments.get(name))
        return either(found)

    def line(self, of: Instance | ClassObject | Above) -> Line:
        """The classes in which its attributes are looked for."""
        line = self.shapes.line(of.of)
        return line[1:] if isinstance(of, Above) else line

    def _member(self, of: Instance | ClassObject | Above, line: Line, name: str) -> Type:
        members = list(self.shapes.members(line, name))
        functions = [own for own in members if own.function is not None and own.owner == members[0].owner]
        chosen = [own for own in functions if own.function is not None and not is_overload(own.function)] or functions
        for member in chosen[:1] or members:
            known = self._of_member(of, member)
            if known is not None and not isinstance(known, Nothing):
                return known
        return None

    def _of_member(self, of: Instance | ClassObject | Above, member: Member) -> Type:
        owner = member.owner
        if member.function is not None:
            if is_property(member.function):
                return self.annotations.of(member.function.returns, owner.module, of.of)
            names = decorators(member.function)
            bound = "staticmethod" not in names and (not isinstance(of, ClassObject) or "classmethod" in names)
            named = Definition(owner.module, f"{owner.name}.{member.name}", member.function)
            return Callee(named, bound, of.of)
        if member.nested is not None:
            return ClassObject(Definition(owner.module, f"{owner.name}.{member.name}", member.nested))
        if member.annotation is not None:
            return self.annotations.of(member.annotation, owner.module, of.of)
        if member.value is None:
            return None
        outer = Scope(owner.module)
        scope = outer if member.inside is None else self.scope(member.inside, outer, owner)
        key: tuple[ast.AST | str, int] = (member.value, 1)
        if key in self._under_way:
            return None
        self._under_way.add(key)
        try:
            return self.infer(member.value, scope)
        finally:
            self._under_way.discard(key)

    def _called(self, call: ast.Call, scope: Scope) -> Type:
        known = of_standard_call(call, scope, self)
        if known is not None:
            return known
        results = [self._result(own) for own in singles(self.infer(call.func, scope))]
        return either(results)

    def _result(self, of: Known) -> Type:
        match of:
            case ClassObject(of=made):
                return Instance(made)
            case Holder(kind="callable", parts=parts):
                return parts[0]
            case Instance():
                made_of = self.attribute(of, "__call__")
                return self._result(made_of) if isinstance(made_of, Callee) else None
            case Callee(of=Definition(node=ast.FunctionDef() | ast.AsyncFunctionDef() as function) as named):
                returned = self.annotations.of(function.returns, named.module, of.receiver)
                if function.returns is None:
                    returned = self._shown_result(of, function)
                if decorators(function) & {"contextmanager", "asynccontextmanager"}:
                    return Holder("manager", (self.element(returned),))
                if isinstance(function, ast.AsyncFunctionDef) and not is_generator(function):
                    return Holder("awaitable", (returned,))
                return returned
        return None

    def _shown_result(self, of: Callee, function: FunctionNode) -> Type:
        """What a classmethod without an annotation gives, where its `return` shows that: an instance of its class."""
        if of.receiver is None or "classmethod" not in decorators(function):
            return None
        owner = next((own for own in self.shapes.line(of.receiver) if self._defines(own, function)), None)
        if not isinstance(owner, Definition):
            return None
        scope = self.scope(function, Scope(of.of.module), owner)
        given = [node.value for node in ast.walk(function) if isinstance(node, ast.Return) and node.value is not None]
        made = either(self.infer(own, scope) for own in given)
        return Instance(of.receiver) if made == Instance(owner) else None

    def _defines(self, own: Definition | Foreign | None, function: FunctionNode) -> bool:
        members = self.shapes.own(own).get(function.name, ()) if isinstance(own, Definition) else ()
        return any(member.function is function for member in members)

    def _awaited(self, of: Type) -> Type:
        return either(
            own.parts[0] if isinstance(own, Holder) and own.kind == "awaitable" else None for own in singles(of)
        )

    def element(self, of: Type) -> Type:
        """What iterating over it gives."""
        found: list[Type] = []
        for own in singles(of):
            match own:
                case Holder(kind="elements" | "mapping", parts=parts):
                    found.append(parts[0])
                case Holder(kind="tuple", parts=parts):
                    found.append(either(parts))
                case Instance():
                    found.append(self._made_by(own, ("__aiter__", "__iter__")))
                case _:
                    found.append(None)
        return either(found)

    def _made_by(self, of: Instance, names: tuple[str, ...]) -> Type:
        for name in names:
            method = self.attribute(of, name)
            if isinstance(method, Callee):
                made = self._result(method)
                return self.element(made) if isinstance(made, Holder) else None
        return None

    def _entered(self, of: Type) -> Type:
        if isinstance(of, Holder) and of.kind == "manager":
            return of.parts[0]
        if isinstance(of, Instance):
            for name in ("__enter__", "__aenter__"):
                method = self.attribute(of, name)
                if isinstance(method, Callee):
                    made = self._result(method)
                    return self._awaited(made) if name == "__aenter__" else made
        return None

    def _part(self, of: Type, index: int) -> Type:
        if isinstance(of, Holder) and of.kind == "tuple":
            return of.parts[index] if -len(of.parts) <= index < len(of.parts) else None
        return self.element(of)

    def _item(self, of: Type, index: ast.expr) -> Type:
        found: list[Type] = []
        for own in singles(of):
            match own, index:
                case Holder(kind="tuple"), ast.Constant(value=int(number)):
                    found.append(self._part(own, number))
                case Holder(kind="elements"), ast.Slice():
                    found.append(own)
                case Holder(kind="elements", parts=parts), _:
                    found.append(parts[0])
                case Holder(kind="mapping", parts=parts), _:
                    found.append(parts[1])
                case _:
                    found.append(None)
        return either(found)
