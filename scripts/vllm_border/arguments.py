"""The command line arguments that vLLM's server knows, and those that our own code adds."""

import ast
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from .inference import Inference
from .kinds import Callee, Instance, Type, function_of, singles
from .scopes import Scope
from .shapes import parameters_of
from .sources import Definition, Foreign, Imported, Module


@dataclass(slots=True)
class Ours:
    """What the checks of one module of ours must know of the others."""

    names: set[str] = field(default_factory=set)
    """Of command line arguments that are ours."""
    packages: set[str] = field(default_factory=set)
    """Those that fill a parser with vLLM's arguments, and so may use these."""
    used: set[str] = field(default_factory=set)
    """Attributes, of whatever, that our code uses."""

    def may_use(self, module: Module) -> bool:
        return any(module.name == own or module.name.startswith(f"{own}.") for own in self.packages)


def learn_arguments(modules: Iterable[Module], inference: Inference, package: str) -> Ours:
    """Tell `inference` which arguments vLLM's parser gives; what is ours comes back."""
    ours = Ours()
    for module in modules:
        ours.names.update(_own(module))
        ours.used.update(node.attr for node in ast.walk(module.tree) if isinstance(node, ast.Attribute))
        for bound in module.bound.values():
            for own in bound:
                found = inference.sources.imported(own.what) if isinstance(own.what, Imported) else None
                if isinstance(found, Definition) and found.module.top == package and _fills_a_parser(found, inference):
                    inference.arguments.update(_declared(found, None, inference, set()))
                    ours.packages.add(module.name if module.package else module.name.rpartition(".")[0])
    return ours


def _own(module: Module) -> Iterator[str]:
    """The names that our own code gives to arguments: added, defaulted or assigned."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="add_argument")):
                yield from _added(node)
            case ast.Call(func=ast.Attribute(attr="add_subparsers" | "set_defaults")):
                yield from (own.arg for own in node.keywords if own.arg not in (None, "dest"))
                yield from _added(node)
            case ast.Call(func=ast.Name(id="Namespace") | ast.Attribute(attr="Namespace")):
                yield from (own.arg for own in node.keywords if own.arg is not None)


def _added(call: ast.Call) -> Iterator[str]:
    names = [own.value for own in call.args if isinstance(own, ast.Constant) and isinstance(own.value, str)]
    said = [own.value for own in call.keywords if own.arg == "dest"]
    if said and isinstance(said[0], ast.Constant):
        yield str(said[0].value)
    elif names:
        yield next((own for own in names if own.startswith("--")), names[0]).lstrip("-").replace("-", "_")


def _fills_a_parser(found: Definition, inference: Inference) -> bool:
    """Whether this is a function that takes a parser of command line arguments and gives one back."""
    function = function_of(found)
    if function is None or not function.args.args or function.returns is None:
        return False
    said = (function.args.args[0].annotation, function.returns)
    return all(_is_parser(inference.annotations.of(own, found.module), inference) for own in said)


def _is_parser(of: Type, inference: Inference) -> bool:
    return any(
        isinstance(own, Instance) and Foreign("argparse.ArgumentParser") in inference.shapes.line(own.of)
        for own in singles(of)
    )


def _declared(
    found: Definition, receiver: Definition | None, inference: Inference, seen: set[ast.AST]
) -> Iterator[tuple[str, Type]]:
    """What a function adds to the parser that it is given, directly or through functions that it hands it to."""
    function = function_of(found)
    if function is None or function in seen:
        return
    seen.add(function)
    if receiver is not None:
        for own in inference.shapes.line(receiver):
            for name, members in inference.shapes.own(own).items() if isinstance(own, Definition) else ():
                if members[0].annotation is not None:
                    yield name, inference.annotations.of(members[0].annotation, members[0].owner.module)
    scope = inference.scope(function, Scope(found.module), receiver)
    handed = {*parameters_of(function).given, "parser"}
    for node in ast.walk(function):
        if not isinstance(node, ast.Call):
            continue
        if isinstance(node.func, ast.Attribute) and node.func.attr == "add_argument":
            yield from ((name, None) for name in _added(node))
        elif any(isinstance(own, ast.Name) and own.id in handed for own in node.args):
            callee = inference.infer(node.func, scope)
            if isinstance(callee, Callee):
                yield from _declared(callee.of, callee.receiver, inference, seen)
