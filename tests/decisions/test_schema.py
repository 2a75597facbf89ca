"""The log's columns, and what the documentation says of them."""

from pathlib import Path

import pytest

from drr.decisions.schema import COLUMNS, SCHEMA, Column
from tests.decisions.rows import row

DOCUMENT = Path(__file__).parents[2] / "docs" / "flywheel.md"


@pytest.mark.parametrize("column", COLUMNS, ids=lambda column: column.name)
def test_the_documentation_has_every_column(column: Column) -> None:
    lines = DOCUMENT.read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"| `{column.name}` |")]
    assert line.endswith(f" | {column.meaning} |")


def test_rows_have_every_column() -> None:
    assert list(row()) == SCHEMA.names
