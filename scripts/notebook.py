"""Run docs/notebooks/from-server-to-picture.ipynb from its first cell to its last, keep what comes out, and write the
page that the documentation shows of it.

    python scripts/notebook.py           against a server that it starts itself
    DRR_URL=http://127.0.0.1:8000/v1 python scripts/notebook.py

`--page` writes the page alone, from the notebook as it is.
"""

import argparse
import base64
import re
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from traitlets.config import Config

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOK = ROOT / "docs" / "notebooks" / "from-server-to-picture.ipynb"
_CELL_SECONDS = 900
_TERMINAL = re.compile(r"\x1b\[[0-9;]*m")


def execute(path: Path) -> Any:
    """The notebook with its outputs. CellExecutionError if a cell fails."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook,
        timeout=_CELL_SECONDS,
        record_timing=False,
        resources={"metadata": {"path": str(ROOT)}},
        config=Config({"KernelManager": {"transport": "ipc"}}),  # nobody else on the machine hears it
    )
    client.execute()
    notebook.metadata = {
        "kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"},
        "language_info": {"name": "python"},
    }
    for cell in notebook.cells:
        cell.metadata = {}
    return notebook


def page_of(notebook: Any, name: str) -> tuple[str, dict[str, bytes]]:
    """The notebook as a page of Markdown, and its pictures by their file names, which begin with `name`."""
    parts, pictures = list[str](), dict[str, bytes]()
    for cell in notebook.cells:
        if cell.cell_type == "markdown":
            parts.append(cell.source.strip())
            continue
        parts.append(f"```python\n{cell.source.strip()}\n```")
        for output in cell.outputs:
            png = output.get("data", {}).get("image/png")
            if png is None:
                parts.append(f"```text\n{_text(output)}\n```")
                continue
            file = f"{name}-{len(pictures) + 1}.png"
            pictures[file] = base64.b64decode(png)
            parts.append(f"![{_described(cell.source)}]({file})")
    mark = f"<!-- written by python scripts/notebook.py from {name}.ipynb -->"
    head = f"This page shows [the notebook]({name}.ipynb) as it ran. `python scripts/notebook.py` runs it again."
    return "\n\n".join([parts[0], mark, head, *parts[1:]]) + "\n", pictures


def _text(output: Any) -> str:
    text = output.text if output.output_type == "stream" else output.data["text/plain"]
    return _TERMINAL.sub("", text).strip("\n")


def _described(source: str) -> str:
    """What a picture shows: the first comment of the cell that draws it."""
    return next(line.removeprefix("#").strip() for line in source.splitlines() if line.startswith("#"))


def files_of(path: Path, notebook: Any) -> Iterator[tuple[Path, bytes]]:
    """The files beside a notebook that are made from it."""
    page, pictures = page_of(notebook, path.stem)
    yield path.with_suffix(".md"), page.encode()
    for name, picture in pictures.items():
        yield path.with_name(name), picture


def main(argv: Sequence[str] | None = None) -> int:
    """Run it and write everything; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--page", action="store_true", help="write the page alone, from the notebook as it is")
    options = parser.parse_args(argv)
    try:
        notebook = nbformat.read(NOTEBOOK, as_version=4) if options.page else execute(NOTEBOOK)
    except CellExecutionError as error:
        print(error, file=sys.stderr)
        return 1
    if not options.page:
        nbformat.write(notebook, NOTEBOOK)
    for path, content in files_of(NOTEBOOK, notebook):
        path.write_bytes(content)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
