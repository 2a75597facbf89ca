"""Calls of vLLM's functions and uses of its objects' attributes in our code."""

import ast

from .arguments import Ours
from .findings import Findings
from .inference import Inference
from .kinds import Above, Callee, ClassObject, Instance, Known, Parsed, singles
from .marks import says_undeclared, says_undeclared_argument
from .overrides import check_overrides
from .scopes import SCOPED, Scope
from .shapes import parameters_of
from .sources import Definition, Module
from .syntax import dotted


class Uses:
    """Walks over one module of ours."""

    def __init__(
        self,
        module: Module,
        inference: Inference,
        ours: Ours,
        package: str,
        skipped: set[int],
        findings: Findings,
    ) -> None:
        self._module, self._inference, self._ours = module, inference, ours
        self._package, self._skipped, self._findings = package, skipped, findings

    def check(self) -> None:
        for statement in self._module.tree.body:
            self._visit(statement, Scope(self._module), None)

    def _visit(self, node: ast.AST, scope: Scope, around: Definition | None) -> None:
        """`around` is the class in whose body the node stands."""
        match node:
            case ast.ClassDef(name=name):
                outer = f"{around.name}." if around is not None else ""
                around = Definition(self._module, f"{outer}{name}", node)
                check_overrides(around, self._inference, self._ours, self._package, self._skipped, self._findings)
            case ast.FunctionDef() | ast.AsyncFunctionDef():
                for outside in (*node.decorator_list, *node.args.defaults, *filter(None, node.args.kw_defaults)):
                    self._visit(outside, scope, around)
                inner = self._inference.scope(node, scope, around)
                for statement in node.body:
                    self._visit(statement, inner, None)
                return
            case ast.Call():
                self._call(node, scope)
            case ast.Attribute():
                self._attribute(node, node.value, node.attr, scope)
            case ast.AnnAssign(target=target, value=value):
                for part in filter(None, (target, value)):
                    self._visit(part, scope, around)
                return
        if isinstance(node, SCOPED):
            scope = self._inference.scope(node, scope)
        for child in ast.iter_child_nodes(node):
            self._visit(child, scope, around)

    def _vllm(self, own: Definition) -> bool:
        return own.module.top == self._package

    def _call(self, call: ast.Call, scope: Scope) -> None:
        match call:
            case ast.Call(func=ast.Name(id="getattr"), args=[value, ast.Constant(value=str(name))], keywords=[]):
                self._attribute(call, value, name, scope)
        if call.lineno in self._skipped or says_undeclared_argument(self._module, call.lineno):
            return
        verdicts = [self._faults(call, own) for own in singles(self._inference.infer(call.func, scope))]
        known = [own for own in verdicts if own is not None]
        if not known:
            return
        name, faults = next((own for own in known if not own[1]), known[0])
        self._findings.checked(
            "calls", self._module.path, call.lineno, name, faults if len(known) == len(verdicts) else []
        )

    def _faults(self, call: ast.Call, callee: Known) -> tuple[str, list[str]] | None:
        """What is called, and what is wrong with that; None where it is not vLLM's."""
        match callee:
            case ClassObject(of=made):
                init = self._inference.shapes.init(made)
                if init is not None and self._vllm(init[0]):
                    return made.path if self._vllm(made) else init[0].path, init[1].faults(call)
            case Callee(
                of=Definition(node=ast.FunctionDef() | ast.AsyncFunctionDef() as function) as named, bound=bound
            ):
                if self._vllm(named):
                    taken = parameters_of(function)
                    return named.path, (taken.without_first() if bound else taken).faults(call)
        return None

    def _attribute(self, node: ast.expr, value: ast.expr, name: str, scope: Scope) -> None:
        if name.startswith("__"):
            return
        verdicts = [self._has(own, name) for own in singles(self._inference.infer(value, scope))]
        names = [own for own, _ in sorted(verdicts, key=lambda verdict: not verdict[1]) if own is not None]
        there = [has for _, has in verdicts]
        lines = {node.lineno, node.end_lineno or node.lineno}
        if not names or lines & self._skipped or any(says_undeclared(self._module, own) for own in lines):
            return
        if scope.asked(dotted(value) or "", name):
            return
        if None not in there or True in there:
            self._findings.checked(
                "attributes", self._module.path, node.lineno, f"{names[0]}.{name}", [] if True in there else ["is gone"]
            )

    def _has(self, of: Known, name: str) -> tuple[str | None, bool | None]:
        """The vLLM object that is asked, None where it is not vLLM's; whether it has the attribute, None if unknown."""
        match of:
            case Module() if of.top == self._package:
                return of.name, self._inference.sources.lookup(of, name) is not None
            case Instance() | ClassObject() | Above():
                line = self._inference.line(of)
                member = next(self._inference.shapes.members(line, name), None)
                if member is not None:
                    return (member.owner.path, True) if self._vllm(member.owner) else (None, True)
                classes = [own for own in line if isinstance(own, Definition)]
                if any(self._vllm(own) for own in classes):
                    ours = classes[0] == of.of and not self._vllm(of.of)  # then its base is to blame
                    return classes[1 if ours else 0].path, self._inference.shapes.has(line, name)
            case Parsed() if self._inference.arguments and self._ours.may_use(self._module):
                if name in self._ours.names:
                    return None, True
                return "vllm's command line arguments", name in self._inference.arguments
        return None, None
