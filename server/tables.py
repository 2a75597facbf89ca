"""Write the tables of the keys and the endpoints into README: python -m server.tables README.md"""

import sys
from pathlib import Path

from server import endpoints, keys

_TABLES = {"keys": keys.markdown_table, "endpoints": endpoints.markdown_table}


def write(path: Path) -> None:
    """Put every table between its markers. ValueError where the file has none."""
    text = path.read_text()
    for name, table in _TABLES.items():
        before, begins, rest = text.partition(f"<!-- {name}: written by python -m server.tables -->\n")
        _, ends, after = rest.partition(f"<!-- end of {name} -->")
        if not begins or not ends:
            raise ValueError(f"{path} has no section {name}")
        text = f"{before}{begins}{table()}\n{ends}{after}"
    path.write_text(text)


if __name__ == "__main__":
    write(Path(sys.argv[1]))
