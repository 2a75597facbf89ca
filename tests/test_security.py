"""The page on security: the tests that it names exist; and what none of our code may do."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PAGE = (ROOT / "docs" / "security.md").read_text()
NAMED = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", PAGE)


def test_every_threat_names_a_test() -> None:
    rows = [line for line in PAGE.splitlines() if line.startswith("| ")][2:]
    assert len(rows) >= 15
    for row in rows:
        *_, tests, _ = row.split("|")
        assert re.fullmatch(r"`tests/[\w/]+\.py::\w+`(, `tests/[\w/]+\.py::\w+`)*", tests.strip()), row[:80]


@pytest.mark.parametrize(("path", "name"), sorted(set(NAMED)))
def test_a_named_test_exists(path: str, name: str) -> None:
    tree = ast.parse((ROOT / path).read_text())
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)}


FORBIDDEN = {
    "pickle": "runs what it reads",
    "dill": "runs what it reads",
    "cloudpickle": "runs what it reads",
    "marshal": "runs what it reads",
    "shelve": "runs what it reads",
}
CALLS = {"eval", "exec"}


def _sources() -> Iterator[Path]:
    for package in ("drr", "server", "clients"):
        yield from sorted((ROOT / package).rglob("*.py"))


def _faults(tree: ast.AST) -> Iterator[str]:
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"line {node.lineno}: {name}" for name in names if name.partition(".")[0] in FORBIDDEN)
        elif isinstance(node, ast.Call):
            yield from _wrong_call(node)


def _wrong_call(node: ast.Call) -> Iterator[str]:
    given = {word.arg: word.value for word in node.keywords}
    called = ast.unparse(node.func)
    if called in CALLS:
        yield f"line {node.lineno}: {called}"
    if called == "torch.load" and not _is(given.get("weights_only"), True):
        yield f"line {node.lineno}: torch.load without weights_only"
    if called in ("yaml.load", "yaml.unsafe_load", "os.system"):
        yield f"line {node.lineno}: {called}"
    for name in ("allow_pickle", "shell", "trust_remote_code"):
        if _is(given.get(name), True):
            yield f"line {node.lineno}: {name}=True"


def _is(value: ast.expr | None, wanted: bool) -> bool:
    return isinstance(value, ast.Constant) and value.value is wanted


def test_nothing_runs_what_it_reads() -> None:
    found = {str(path): list(_faults(ast.parse(path.read_text()))) for path in _sources()}
    assert len(found) > 100
    assert {path: faults for path, faults in found.items() if faults} == {}


@pytest.mark.parametrize(
    "text",
    [
        "import pickle",
        "from pickle import loads",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "eval(text)",
        "np.load(path, allow_pickle=True)",
        "subprocess.run(text, shell=True)",
        "from_pretrained(name, trust_remote_code=True)",
        "yaml.load(text)",
    ],
)
def test_what_runs_what_it_reads_is_found(text: str) -> None:
    assert list(_faults(ast.parse(text)))
