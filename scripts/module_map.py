"""Write what each module and room of the server is for, from its first sentence, into docs/architecture.md.

python scripts/module_map.py
"""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "architecture.md"
PACKAGE = ROOT / "server"
BEGIN, END = "<!-- modules: written by python scripts/module_map.py -->", "<!-- end of modules -->"


def first_sentence(path: Path) -> str:
    """The first sentence of a module's docstring. ValueError where it has none."""
    text = ast.get_docstring(ast.parse(path.read_text()))
    if text is None:
        raise ValueError(f"{path} does not say what it is for")
    return " ".join(text.partition("\n\n")[0].split()).partition(". ")[0].rstrip(".:").replace("|", "\\|")


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted(PACKAGE.iterdir()):
        if (path / "__init__.py").exists():
            yield f"server/{path.name}/", path / "__init__.py"
        elif path.suffix == ".py" and path.name != "__init__.py":
            yield f"server/{path.name}", path


def section() -> str:
    """The section, with its marks."""
    rows = [f"| `{name}` | {first_sentence(path)} |" for name, path in _modules()]
    return "\n".join([BEGIN, "| where | what |", "| --- | --- |", *rows, END])


def main() -> int:
    before, begins, rest = PAGE.read_text().partition(BEGIN)
    _, ends, after = rest.partition(END)
    if not begins or not ends:
        print(f"{PAGE} has no section for the modules", file=sys.stderr)
        return 1
    PAGE.write_text(f"{before}{section()}{after}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
