"""Python packages read without importing them: which module has which name, and where that name comes from."""

import ast
import builtins
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from zipfile import Path as ZipPath

from .syntax import FunctionNode, blocks, for_typing, is_overload

Folder = Path | ZipPath


@dataclass(frozen=True, slots=True)
class Imported:
    """A name that stands for another module's name, or for that module itself where `name` is None."""

    module: str
    name: str | None


@dataclass(frozen=True, slots=True)
class Bound:
    """One statement that gives a module's name its meaning: a definition, an import or a value."""

    what: ast.ClassDef | FunctionNode | ast.expr | Imported | None
    annotation: ast.expr | None = None
    typing_only: bool = False
    """Whether it is there for type checkers only."""


@dataclass(eq=False, slots=True)
class Module:
    """A parsed module."""

    name: str
    path: str
    package: bool
    tree: ast.Module
    text: str
    bound: dict[str, list[Bound]] = field(default_factory=dict)
    stars: list[str] = field(default_factory=list)

    @property
    def top(self) -> str:
        """The package it belongs to."""
        return self.name.partition(".")[0]


@dataclass(frozen=True, slots=True)
class Definition:
    """A name and what defines it: a class, a function, a value; `node` None: it is there, no more is known."""

    module: Module
    name: str
    node: ast.ClassDef | FunctionNode | ast.expr | None
    annotation: ast.expr | None = None

    @property
    def path(self) -> str:
        return f"{self.module.name}.{self.name}"


@dataclass(frozen=True, slots=True)
class Foreign:
    """A name of a package that is not read."""

    path: str

    @property
    def last(self) -> str:
        return self.path.rpartition(".")[2]


Found = Module | Definition | Foreign


def import_source(node: ast.ImportFrom, module: Module) -> str:
    """The absolute name of the module that is imported from."""
    if not node.level:
        return node.module or ""
    parts = module.name.split(".")
    parts = parts[: len(parts) - node.level + (1 if module.package else 0)]
    return ".".join([*parts, *([node.module] if node.module else [])])


def imported_names(node: ast.Import | ast.ImportFrom, module: Module) -> Iterator[tuple[str, Imported]]:
    """The names that an import binds, `*` left out."""
    if isinstance(node, ast.Import):
        for alias in node.names:
            target = alias.name if alias.asname else alias.name.partition(".")[0]
            yield alias.asname or target, Imported(target, None)
        return
    source = import_source(node, module)
    for alias in node.names:
        if alias.name != "*":
            yield alias.asname or alias.name, Imported(source, alias.name)


class Sources:
    """Some packages, each in a folder (or in a zip file); other packages are Foreign."""

    def __init__(self, packages: Mapping[str, Folder], shown_from: Path | None = None) -> None:
        self._packages, self._shown_from = dict(packages), shown_from
        self._modules: dict[str, Module | None] = {}
        self._looking: set[tuple[Module, str, bool]] = set()

    def module(self, name: str) -> Module | None:
        """The module of this name, None where there is none."""
        if name not in self._modules:
            self._modules[name] = self._read(name)
        return self._modules[name]

    def reads(self, name: str) -> bool:
        """Whether names under this module's are looked for in the sources."""
        return name.partition(".")[0] in self._packages

    def _read(self, name: str) -> Module | None:
        top, *parts = name.split(".")
        place: Folder | None = self._packages.get(top)
        if place is None:
            return None
        for part in parts[:-1]:
            place = place / part
        last = place / parts[-1] if parts else place
        package = last / "__init__.py"
        plain = place / f"{parts[-1]}.py" if parts else None
        if package.is_file():
            return self._parsed(name, package, is_package=True)
        if plain is not None and plain.is_file():
            return self._parsed(name, plain, is_package=False)
        if last.is_dir():
            return Module(name, str(last), True, ast.Module([], []), "")
        return None

    def _parsed(self, name: str, file: Folder, *, is_package: bool) -> Module:
        text = file.read_text(encoding="utf-8")
        shown = str(file)
        if self._shown_from is not None and isinstance(file, Path) and file.is_relative_to(self._shown_from):
            shown = str(file.relative_to(self._shown_from))
        module = Module(name, shown, is_package, ast.parse(text, filename=shown), text)
        self._bind(module, module.tree.body, typing_only=False)
        return module

    def _bind(self, module: Module, statements: Sequence[ast.stmt], *, typing_only: bool) -> None:
        def add(name: str, what: ast.ClassDef | FunctionNode | ast.expr | Imported | None, **more: ast.expr) -> None:
            module.bound.setdefault(name, []).append(Bound(what, more.get("annotation"), typing_only))

        for node in statements:
            match node:
                case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                    add(node.name, node)
                case ast.Import() | ast.ImportFrom():
                    for name, imported in imported_names(node, module):
                        add(name, imported)
                    if isinstance(node, ast.ImportFrom) and any(alias.name == "*" for alias in node.names):
                        module.stars.append(import_source(node, module))
                case ast.Assign(targets=targets, value=value):
                    for target in targets:
                        for own in ast.walk(target):
                            if isinstance(own, ast.Name):
                                add(own.id, value if own is target else None)
                case ast.AnnAssign(target=ast.Name(id=name), annotation=annotation, value=value):
                    add(name, value, annotation=annotation)
                case ast.If(test=test, body=body, orelse=orelse):
                    self._bind(module, body, typing_only=typing_only or for_typing(test))
                    self._bind(module, orelse, typing_only=typing_only)
                case ast.Try() | ast.With() | ast.For() | ast.While() | ast.Match():
                    for block in blocks(node):
                        self._bind(module, block, typing_only=typing_only)

    def imported(self, imported: Imported, *, running: bool = False) -> Found | None:
        """What an import brings; None where it fails. `running`: names for type checkers only do not count."""
        if not self.reads(imported.module):
            return Foreign(".".join(filter(None, (imported.module, imported.name))))
        module = self.module(imported.module)
        if module is None or imported.name is None:
            return module
        return self.lookup(module, imported.name, running=running)

    def lookup(self, module: Module, name: str, *, running: bool = False) -> Found | None:
        """What a module's name stands for: definitions first, then imports that work, then values."""
        key = (module, name, running)
        if key in self._looking:
            return None
        self._looking.add(key)
        try:
            return self._lookup(module, name, running=running)
        finally:
            self._looking.discard(key)

    def _lookup(self, module: Module, name: str, *, running: bool) -> Found | None:
        lazy = module.bound.get("__getattr__")
        bound = [own for own in module.bound.get(name, []) if lazy or not (running and own.typing_only)]
        defined = [
            own.what for own in bound if isinstance(own.what, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        ]
        if defined:
            return Definition(
                module, name, next((own for own in reversed(defined) if not is_overload(own)), defined[-1])
            )
        imports = [self.imported(own.what, running=running) for own in bound if isinstance(own.what, Imported)]
        working = sorted((own for own in imports if own is not None), key=lambda own: isinstance(own, Foreign))
        if working:
            return working[0]
        for own in reversed(bound):
            if not isinstance(own.what, Imported):
                return Definition(module, name, _expression(own.what), own.annotation)
        for star in module.stars:
            source = self.module(star)
            found = self.lookup(source, name, running=running) if source and _exported(source, name) else None
            if found is not None:
                return found
        inner = self.module(f"{module.name}.{name}") if module.package else None
        return inner or (self._lazy(module, name, lazy[-1].what) if lazy else None)

    def _lazy(self, module: Module, name: str, hook: object) -> Found | None:
        """A name that a module's own `__getattr__` makes, by a table in that module or named in the function."""
        listed = False
        for table in (own.what for all_of in module.bound.values() for own in all_of):
            if not isinstance(table, ast.Dict):
                continue
            for key, value in zip(table.keys, table.values, strict=True):
                texts = [own.value for own in ast.walk(value) if isinstance(own, ast.Constant)]
                named = key.value if isinstance(key, ast.Constant) else None
                place = None
                if named == name:
                    listed, place = True, _place(module, name, texts)
                elif isinstance(named, str) and name in texts:
                    place = _place(module, name, [named])
                if place is not None and self.module(place.module) is not None:
                    return self.imported(place)
        inside = ast.walk(hook) if isinstance(hook, ast.AST) else ()
        known = any(isinstance(own, ast.Constant) and own.value == name for own in inside)
        return Definition(module, name, None) if listed or known or name in _all_of(module) else None

    def find(self, node: ast.expr, module: Module) -> Found | None:
        """What a dotted expression in a module stands for."""
        if isinstance(node, ast.Name):
            found = self.lookup(module, node.id)
            return Foreign(f"builtins.{node.id}") if found is None and hasattr(builtins, node.id) else found
        if not isinstance(node, ast.Attribute):
            return None
        before = self.find(node.value, module)
        match before:
            case Module():
                return self.lookup(before, node.attr)
            case Foreign(path=path):
                return Foreign(f"{path}.{node.attr}")
            case Definition(node=ast.ClassDef() as outer):
                for own in outer.body:
                    if isinstance(own, ast.ClassDef) and own.name == node.attr:
                        return Definition(before.module, f"{before.name}.{own.name}", own)
        return None


def _place(module: Module, name: str, texts: Sequence[object]) -> Imported | None:
    """Where an entry of a table of lazy names says that a name is."""
    match texts:
        case [str(source)] if ":" in source:
            source, _, name = source.partition(":")
        case [str(source)]:
            pass
        case [str(source), str(own)]:
            name = own
        case _:
            return None
    if source.startswith("."):
        level = len(source) - len(source.lstrip("."))
        source = import_source(ast.ImportFrom(source.lstrip(".") or None, [], level), module)
    return Imported(source, name)


def _expression(what: object) -> ast.expr | None:
    return what if isinstance(what, ast.expr) else None


def _all_of(module: Module) -> list[object]:
    lists = [own.what for own in module.bound.get("__all__", []) if isinstance(own.what, ast.List | ast.Tuple)]
    return [own.value for listed in lists for own in listed.elts if isinstance(own, ast.Constant)]


def _exported(module: Module, name: str) -> bool:
    listed = _all_of(module)
    return name in listed if listed else not name.startswith("_")
