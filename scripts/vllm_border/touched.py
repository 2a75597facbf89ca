"""The table of what our code touches in vLLM and no reading of our code can see. ../check_vllm.py has its grammar."""

import ast
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from .findings import Findings
from .inference import Inference
from .kinds import Callee, ClassObject, Instance, Type, function_of, singles
from .scopes import Scope
from .shapes import Parameters, parameters_of
from .sources import Definition, Module
from .syntax import FunctionNode, dotted

_PATH = re.compile(
    r"(?P<module>[\w.]+)(?::(?:(?P<names>[A-Za-z_][\w.]*)(?:\((?P<inside>[^()]*)\))?|\"(?P<text>[^\"]*)\"))?"
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a table: its path, None where that cannot be read."""

    line: int
    path: str | None

    @property
    def places(self) -> list[str]:
        """The places of which one must be there."""
        return [own.strip() for own in (self.path or "").split(" | ")]


def entries(module: Module) -> Iterator[Entry]:
    """The entries of the module's `TOUCHED`, if it has one."""
    for bound in module.bound.get("TOUCHED", ()):
        if isinstance(bound.what, ast.Tuple | ast.List):
            for node in bound.what.elts:
                given = [*node.args, *(own.value for own in node.keywords)] if isinstance(node, ast.Call) else []
                named = [own.value for own in node.keywords if own.arg == "path"] if isinstance(node, ast.Call) else []
                path = (named or given or [node])[0]
                yield Entry(node.lineno, _text(path, module))
        elif isinstance(bound.what, ast.expr):
            yield Entry(bound.what.lineno, None)


def _text(node: ast.expr, module: Module) -> str | None:
    """A string that is written out, put together, or a constant of the module; None for anything else."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.BinOp(op=ast.Add(), left=left, right=right):
            return _joined((left, right), module)
        case ast.JoinedStr(values=parts):
            return _joined(parts, module)
        case ast.FormattedValue(value=value):
            return _text(value, module)
        case ast.Name(id=name):
            values = [own.what for own in module.bound.get(name, ()) if isinstance(own.what, ast.expr)]
            return _text(values[-1], module) if values else None
    return None


def _joined(parts: Sequence[ast.expr], module: Module) -> str | None:
    texts = [_text(own, module) for own in parts]
    known = [own for own in texts if own is not None]
    return "".join(known) if len(known) == len(texts) else None


def check_touched(module: Module, inference: Inference, skipped: set[int], findings: Findings) -> None:
    """Every entry of the module's table."""
    for entry in entries(module):
        if entry.line in skipped:
            continue
        if entry.path is None:
            fault = "an entry must be Touch(path, reason), its path a string that can be read without running it"
            findings.checked("attributes", module.path, entry.line, "TOUCHED", [fault])
            continue
        verdicts = [_Place(own, inference).faults() for own in entry.places]
        faults = [] if [] in verdicts else [fault for found in verdicts for fault in found]
        findings.checked("attributes", module.path, entry.line, entry.path.replace(":", ".", 1), faults)


class _Place:
    """One place that an entry names."""

    def __init__(self, path: str, inference: Inference) -> None:
        self._path, self._inference = path, inference
        self._sources, self._shapes = inference.sources, inference.shapes

    def faults(self) -> list[str]:
        parsed = _PATH.fullmatch(self._path)
        if parsed is None:
            return [f"{self._path!r} is not a path"]
        module = self._sources.module(parsed["module"])
        if module is None:
            return [f"there is no module {parsed['module']}"]
        if parsed["text"] is not None:
            texts = (own.value for own in ast.walk(module.tree) if isinstance(own, ast.Constant))
            return [] if parsed["text"] in texts else [f"{module.name} has no text {parsed['text']!r}"]
        if parsed["names"] is None:
            return []
        first, *names = parsed["names"].split(".")
        found = self._sources.lookup(module, first, running=True)
        if found is None:
            return [f"{module.name} has no {first}"]
        if not names and parsed["inside"] is None:
            return []
        return self._through(self._inference.type_of(found), first, names, parsed["inside"])

    def _through(self, of: Type, path: str, names: list[str], inside: str | None) -> list[str]:
        for name in names:
            if not (known := singles(of)):
                return [f"what {path} is cannot be seen; name its class instead"]
            there = [self._has(own, name) for own in known]
            if True not in there:
                return [f"{path} has no {name}" if None not in there else f"what {path} has cannot be seen"]
            of, path = self._inference.attribute(of, name), f"{path}.{name}"
        return [] if inside is None else self._taken(of, path, inside)

    def _has(self, own: object, name: str) -> bool | None:
        if isinstance(own, Instance | ClassObject):
            return self._shapes.has(self._inference.line(own), name)
        return self._sources.lookup(own, name) is not None if isinstance(own, Module) else None

    def _taken(self, of: Type, path: str, inside: str) -> list[str]:
        names = [own.strip() for own in inside.split(",") if own.strip()]
        made = next((own for own in singles(of) if isinstance(own, Callee | ClassObject)), None)
        taken: Parameters | None = None
        if isinstance(made, ClassObject):
            init = self._shapes.init(made.of)
            taken = init[1] if init is not None else None
        elif isinstance(made, Callee) and (function := function_of(made.of)) is not None:
            taken = parameters_of(function)
            if made.of.name.count(".") and (made.bound or taken.given[:1] == ("self",)):
                taken = taken.without_first()
        if taken is None or made is None:
            return [f"what {path} takes cannot be seen"]
        leading = names[: names.index("/")] if "/" in names else []
        faults = []
        if tuple(leading) != taken.given[: len(leading)]:
            faults.append(f"takes ({', '.join(taken.given[: len(leading)])}) first, not ({', '.join(leading)})")
        for name in names:
            if "." in name:
                parameter, _, attribute = name.partition(".")
                if not self._sets(made.of, parameter, attribute, set()):
                    faults.append(f"does not set {name}")
            elif name != "/" and name not in leading and name not in taken.named and not taken.more_keywords:
                faults.append(f"parameter {name} is gone")
        return faults

    def _sets(self, of: Definition, parameter: str, attribute: str, seen: set[ast.AST]) -> bool:
        """Whether the function, or one that it hands the parameter on to, assigns this attribute of it."""
        function = function_of(of)
        if function is None or function in seen:
            return False
        seen.add(function)
        scope = self._inference.scope(function, Scope(of.module))
        for node in ast.walk(function):
            match node:
                case ast.Attribute(value=ast.Name(id=name), attr=found, ctx=ast.Store()):
                    if (name, found) == (parameter, attribute):
                        return True
                case ast.Call():
                    callee = self._inference.infer(node.func, scope)
                    if isinstance(callee, Callee) and (inner := function_of(callee.of)) is not None:
                        handed = _handed_as(node, parameter, inner, bound=callee.bound)
                        if handed is not None and self._sets(callee.of, handed, attribute, seen):
                            return True
        return False


def _handed_as(call: ast.Call, name: str, function: FunctionNode, *, bound: bool) -> str | None:
    """The parameter of `function` that the call gives the variable `name` to."""
    given = parameters_of(function).given[1 if bound else 0 :]
    for place, own in enumerate(call.args):
        if dotted(own) == name and place < len(given):
            return given[place]
    return next((own.arg for own in call.keywords if dotted(own.value) == name), None)
