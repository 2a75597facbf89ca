"""Methods of ours that stand in for a vLLM class's own."""

import ast
from collections.abc import Iterator

from .arguments import Ours
from .findings import Findings
from .inference import Inference
from .marks import says_override
from .shapes import Member, parameters_of
from .sources import Definition, Foreign
from .syntax import FunctionNode, decorators, is_generator, is_overload, is_property


def check_overrides(
    own: Definition, inference: Inference, ours: Ours, package: str, skipped: set[int], findings: Findings
) -> None:
    """The methods of one class of ours, where it inherits from a class of `package`."""
    shapes = inference.shapes
    line = shapes.line(own)[1:]
    bases = [base for base in line if isinstance(base, Definition) and base.module.top == package]
    if not bases or not isinstance(own.node, ast.ClassDef):
        return
    if own.node.lineno not in skipped:
        for member in _left_abstract(own, inference):
            name, fault = f"{member.owner.path}.{member.name}", f"is abstract, and {own.name} does not define it"
            findings.checked("overrides", own.module.path, own.node.lineno, name, [fault])
    for method in own.node.body:
        if not isinstance(method, ast.FunctionDef | ast.AsyncFunctionDef) or method.lineno in skipped:
            continue
        if method.name.startswith("__"):  # `__init__` and the like need not be as the base's
            continue
        members = [member for member in shapes.members(line, method.name) if member.owner.module.top == package]
        if not members:
            if shapes.has(line, method.name) is False and _meant_to_override(own, method, ours):
                fault = f"is gone: {own.name}.{method.name} overrides nothing"
                blamed = next((base for base in line if isinstance(base, Definition)), bases[0])
                findings.checked("overrides", own.module.path, method.lineno, f"{blamed.path}.{method.name}", [fault])
            continue
        name = f"{members[0].owner.path}.{method.name}"
        functions = [member.function for member in members if member.function is not None]
        base = next((function for function in functions if not is_overload(function)), None)
        faults = list(_faults(method, base, f"{own.name}.{method.name}")) if base is not None else []
        findings.checked("overrides", own.module.path, method.lineno, name, faults)


def _left_abstract(own: Definition, inference: Inference) -> Iterator[Member]:
    """What keeps a class from being made: what its bases leave to it; nothing where it is abstract itself."""
    line = inference.shapes.line(own)
    enforced = any(isinstance(base, Foreign) and base.last in ("ABC", "Protocol") for base in line)
    names = {name for base in line if isinstance(base, Definition) for name in inference.shapes.own(base)}
    nearest = [next(inference.shapes.members(line, name)) for name in sorted(names)] if enforced else []
    left = [member for member in nearest if member.function and "abstractmethod" in decorators(member.function)]
    if all(member.owner.module.top != own.module.top for member in left):
        yield from left


def _meant_to_override(own: Definition, method: FunctionNode, ours: Ours) -> bool:
    """Whether the method itself says so: by a decorator, by a comment, by calling the base's of the same name, or by
    being public (and undecorated: a decorator may use it) where nothing of ours calls it."""
    if not method.name.startswith("_") and not method.decorator_list and method.name not in ours.used:
        return True
    if "override" in decorators(method) or says_override(own.module, method.lineno):
        return True
    for node in ast.walk(method):
        match node:
            case ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr=name) if name == method.name:
                return True
    return False


def _faults(ours: FunctionNode, base: FunctionNode, name: str) -> Iterator[str]:
    if is_property(ours) != is_property(base):
        yield f"is {'a property' if is_property(base) else 'a method'}, unlike {name}"
        return
    if _result_is_awaited(ours) != _result_is_awaited(base):
        yield f"is {'a coroutine' if _result_is_awaited(base) else 'not a coroutine'}, unlike {name}"
    own, theirs = parameters_of(ours), parameters_of(base)
    if "staticmethod" not in decorators(ours):
        own = own.without_first()
    if "staticmethod" not in decorators(base):
        theirs = theirs.without_first()
    for place, parameter in enumerate(theirs.given):
        by_place = own.given[place] if place < len(own.given) else None
        if by_place == parameter or (by_place is None and (own.more_keywords or own.more_given)):
            continue
        if parameter in own.keywords:
            continue
        if parameter in own.given:
            yield f"parameter {parameter} stands at another place in {name}"
        elif by_place is not None and by_place not in theirs.named:
            yield f"parameter {place + 1} is {parameter}, in {name} it is {by_place}"
        elif not own.more_keywords:
            yield f"parameter {parameter} is not taken by {name}"
    for parameter in theirs.keywords:
        if parameter not in own.named and not own.more_keywords:
            yield f"parameter {parameter} is not taken by {name}"
    taken = {*theirs.given, *theirs.keywords}
    for parameter in (*own.given, *own.keywords):
        if parameter in own.required and parameter not in taken and not theirs.more_keywords:
            place = own.given.index(parameter) if parameter in own.given else len(theirs.given)
            if place >= len(theirs.given):
                yield f"parameter {parameter} that {name} needs is gone"


def _result_is_awaited(method: FunctionNode) -> bool:
    if isinstance(method, ast.AsyncFunctionDef):
        return not is_generator(method) and not _says_generator(method)
    returned = ast.unparse(method.returns) if method.returns is not None else ""
    return returned.strip("'\"").startswith(("Awaitable", "Coroutine"))


def _says_generator(method: FunctionNode) -> bool:
    """An abstract `async def` whose body yields nothing."""
    return (
        method.returns is not None
        and ast.unparse(method.returns).strip("'\"").startswith("AsyncGenerator")
        and ("abstractmethod" in decorators(method))
    )
