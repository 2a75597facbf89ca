"""The fields that dataclasses, pydantic models and msgspec structs make their parameters of."""

import ast
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .syntax import dotted


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    required: bool
    by_name: bool
    aliases: tuple[str, ...] = ()
    open: bool = False
    """Whether it may come under names that cannot be seen."""


def fields_of(node: ast.ClassDef, kind: str) -> Iterator[Field]:
    by_name = kind in ("model", "dict") or _says(node.keywords, "kw_only")
    for decorator in node.decorator_list:
        by_name = by_name or (isinstance(decorator, ast.Call) and _says(decorator.keywords, "kw_only"))
    for own in node.body:
        if not isinstance(own, ast.AnnAssign) or not isinstance(own.target, ast.Name):
            continue
        name, annotation = own.target.id, ast.unparse(own.annotation)
        if annotation.endswith("KW_ONLY"):
            by_name = True
            continue
        if "ClassVar" in annotation or (kind == "model" and (name.startswith("_") or name == "model_config")):
            continue
        made = next((call for call in _field_calls(own) if call is not None), None)
        options = {given.arg: given.value for given in made.keywords} if made is not None else {}
        if _is(options.get("init"), False):
            continue
        default = own.value is not None and own.value is not made
        if made is not None:
            first = made.args[0] if made.args else None
            default = default or {"default", "default_factory"} & set(options) != set()
            default = default or (first is not None and not _is(first, ...))
        names = [options[key] for key in ("alias", "validation_alias") if key in options]
        yield Field(
            name,
            not default and not annotation.startswith("NotRequired") and kind != "dict",
            by_name or _is(options.get("kw_only"), True),
            tuple(str(alias.value) for alias in names if isinstance(alias, ast.Constant)),
            any(not isinstance(alias, ast.Constant) for alias in names),
        )


def _field_calls(own: ast.AnnAssign) -> Iterator[ast.Call]:
    """The `Field(...)` that describes a field: its value, or a part of `Annotated[...]`."""
    for node in (own.value, *(ast.walk(own.annotation) if isinstance(own.annotation, ast.Subscript) else ())):
        if isinstance(node, ast.Call) and (dotted(node.func) or "").lower().endswith("field"):
            yield node


def _says(keywords: Sequence[ast.keyword], name: str) -> bool:
    return any(own.arg == name and _is(own.value, True) for own in keywords)


def _is(node: ast.expr | None, value: object) -> bool:
    return isinstance(node, ast.Constant) and node.value is value
