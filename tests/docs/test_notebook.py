"""The notebook from a server to a picture: it is kept as it ran, the page is made from it, and it runs."""

import ast
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.docs.pages import ROOT

pytest.importorskip("nbformat", reason="nbformat and nbclient are not installed (pip install 'drr[dev]')")

import nbformat
from nbclient.exceptions import CellExecutionError

from scripts import notebook as script

TAKEN = nbformat.read(script.NOTEBOOK, as_version=4)
CODE = [cell for cell in TAKEN.cells if cell.cell_type == "code"]


def pictures(cells: list[Any]) -> int:
    return sum("image/png" in output.get("data", {}) for cell in cells for output in cell.get("outputs", []))


def test_it_holds_what_came_out_when_it_ran_from_first_to_last() -> None:
    nbformat.validate(TAKEN)
    assert [cell.execution_count for cell in CODE] == list(range(1, len(CODE) + 1))
    outputs = [output for cell in CODE for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {"stream", "display_data", "execute_result"}
    assert all(output.get("name") != "stderr" for output in outputs), "warnings are no results"
    assert pictures(CODE) == 2
    assert script.NOTEBOOK.stat().st_size < 300_000


def test_its_cells_are_code() -> None:
    for cell in CODE:
        compile(cell.source, "a cell", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)


def test_it_tells_nothing_of_the_machine_that_ran_it() -> None:
    text = json.dumps(TAKEN)
    for path in (str(ROOT), str(Path.home()), "/tmp/", "site-packages"):
        assert path not in text
    assert not re.search(r"127\.0\.0\.1:\d\d", text), "an address that only that run had"


def test_the_page_and_its_pictures_are_made_from_it() -> None:
    for path, content in script.files_of(script.NOTEBOOK, TAKEN):
        assert path.read_bytes() == content, f"{path.name}: python scripts/notebook.py --page"


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DRR_URL", raising=False)  # it starts the server itself
    again = script.execute(script.NOTEBOOK)
    assert pictures(again.cells) == 2
    told = "".join(output.get("text", "") for cell in again.cells for output in cell.get("outputs", []))
    accuracy = re.search(r"^full thinking +(\d+\.\d)%", told, re.MULTILINE)
    assert accuracy is not None
    assert float(accuracy[1]) > 50


@pytest.mark.slow
def test_a_cell_that_fails_is_told(tmp_path: Path) -> None:
    broken = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("1 / 0")])
    nbformat.write(broken, tmp_path / "broken.ipynb")
    with pytest.raises(CellExecutionError, match="ZeroDivisionError"):
        script.execute(tmp_path / "broken.ipynb")
