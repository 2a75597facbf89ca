"""Files as users hand them in."""

import json
from pathlib import Path
from typing import Any

GOOD_JSONL = b'{"question": "1+1?", "answer": "2"}\n{"question": "1+2?", "answer": "3"}\n'


def lines(path: Path, *rows: Any) -> str:
    """Write rows as JSON lines, texts as they are; returns the path."""
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows) + "\n")
    return str(path)
