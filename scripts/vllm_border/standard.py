"""Calls of the standard library whose result follows from what they are given."""

import ast
from typing import TYPE_CHECKING

from .kinds import Above, Holder, Type, either
from .scopes import Scope
from .sources import Foreign

if TYPE_CHECKING:
    from .inference import Inference

_SAME_ELEMENTS = ("list", "tuple", "set", "frozenset", "sorted", "reversed", "iter", "aiter", "islice")


def of_standard_call(call: ast.Call, scope: Scope, inference: "Inference") -> Type:
    """What such a call gives; None where it is another call."""
    func = call.func
    if isinstance(func, ast.Attribute) and func.attr in ("items", "values", "get", "pop", "setdefault", "copy"):
        holder = inference.infer(func.value, scope)
        if isinstance(holder, Holder) and holder.kind == "mapping":
            if func.attr in ("items", "values"):
                part: Type = Holder("tuple", holder.parts) if func.attr == "items" else holder.parts[1]
                return Holder("elements", (part,))
            return holder if func.attr == "copy" else holder.parts[1]
    local = scope.origins_of(func.id) if isinstance(func, ast.Name) else None
    found = inference.sources.find(func, scope.module) if local is None else None
    if not isinstance(found, Foreign):
        return None
    if found.last == "super" and not call.args:
        owner = scope.class_around()
        return Above(owner) if owner is not None else None
    if found.last == "cast" and len(call.args) == 2:
        return inference.annotations.of(call.args[0], scope.module)
    given = [inference.infer(own, scope) for own in call.args]
    match found.last, given:
        case ("aclosing" | "closing", [own]):
            return Holder("manager", (own,))
        case ("next", [own, *_]):
            return inference.element(own)
        case ("anext", [own, *_]):
            return Holder("awaitable", (inference.element(own),))
        case ("enumerate", [own, *_]):
            return Holder("elements", (Holder("tuple", (None, inference.element(own))),))
        case ("zip", _):
            return Holder("elements", (Holder("tuple", tuple(inference.element(own) for own in given)),))
        case (name, [own, *_]) if name in _SAME_ELEMENTS:
            return Holder("elements", (inference.element(own),))
        case ("getattr", [own, _, *rest]) if isinstance(call.args[1], ast.Constant):
            found_type = inference.attribute(own, str(call.args[1].value))
            return either((found_type, *rest))
    return None
