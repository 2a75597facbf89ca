"""The rows of a source: a file of any format, a folder `FOLDER[:CONFIG[:SPLIT]]`, or a dataset of the hub,
`OWNER/NAME[:CONFIG[:SPLIT]]`.

What looks like a file or folder is never looked for on the hub.
"""

import re
from pathlib import Path

from drr.errors import InputError
from drr.tasks.arrow_rows import arrow_rows, is_arrow
from drr.tasks.fields import is_known
from drr.tasks.file_bytes import contents
from drr.tasks.folders import DATA_SUFFIXES, PACKING_SUFFIXES, data_files
from drr.tasks.hub import hub_rows
from drr.tasks.rows import Table
from drr.tasks.text_rows import text_rows

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?")
_FILE_SUFFIXES = (*DATA_SUFFIXES, *PACKING_SUFFIXES, ".txt", ".zip", ".xls", ".xlsx", ".yaml", ".yml", ".pkl", ".md")


def read_rows(source: str) -> Table:
    """All rows of a source. InputError if there is no such source, or it holds no rows."""
    if not source:
        raise InputError("questions", "name no file, folder, dataset or task")
    path, rest = _local(source)
    config, _, split = rest.partition(":")
    if path is None:
        name = source.partition(":")[0]
        if not _HUB_ID.fullmatch(name) or name.lower().endswith(_FILE_SUFFIXES):
            raise InputError(source, "there is no such file or folder")
        return hub_rows(source, *_parts(source))
    if path.is_dir():
        return _folder_rows(source, path, config, split)
    if rest:
        raise InputError(source, f"{path} is a file: it has no configurations or splits")
    return _file_rows(path)


def _parts(source: str) -> tuple[str, str, str]:
    name, _, rest = source.partition(":")
    config, _, split = rest.partition(":")
    return name, config, split


def _local(source: str) -> tuple[Path | None, str]:
    """The file or folder at the beginning of `source`, and what follows it. The longest path that exists counts, since
    names may hold colons."""
    parts = source.split(":")
    for end in range(len(parts), max(0, len(parts) - 3), -1):
        name = ":".join(parts[:end])
        try:
            path = Path(name).expanduser()
            if name and path.exists():
                return path, ":".join(parts[end:])
        except (OSError, RuntimeError, ValueError):  # a name too long, an unknown ~user, a NUL
            continue
    return None, ""


def _file_rows(path: Path) -> Table:
    data = contents(path)
    return arrow_rows(path, data) if is_arrow(data) else text_rows(path, data, is_known)


def _folder_rows(source: str, folder: Path, config: str, split: str) -> Table:
    files, taken = data_files(folder, config, split)
    table = Table()
    for path in files:
        part = _file_rows(path)
        table.rows += part.rows
        table.notes += part.notes
    if not split or len(files) > 1:
        names = ", ".join(str(path.relative_to(folder)) for path in files[:5])
        table.notes.append(f"{source}: {taken}: {names}" + (f" and {len(files) - 5} more" if len(files) > 5 else ""))
    return table
