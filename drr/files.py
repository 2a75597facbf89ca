"""Files written whole or not at all, JSON checked on reading, and folders that a later run may continue."""

import json
from dataclasses import fields
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from drr.errors import InputError

Parsed = TypeVar("Parsed")


def write_whole(path: Path, text: str) -> None:
    """Write a file whole or not at all."""
    partial = path.with_name(path.name + ".partial")
    partial.write_text(text, encoding="utf-8")
    partial.replace(path)


def read_json_as(cls: type[Parsed], path: Path) -> Parsed:
    """The dataclass that a JSON file holds. InputError names a key that is missing, unknown or of the wrong type."""
    data = read_json_object(path)
    known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
    for name in data:
        if name not in known:
            raise InputError(str(path), "unknown key", field=name)
    try:
        return TypeAdapter(cls).validate_json(json.dumps(data), strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(str(path), first["msg"], field=".".join(map(str, first["loc"]))) from error


def read_json_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file. InputError if the file cannot be read or holds anything but an object."""
    try:
        data = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(str(path), f"is not readable JSON: {error}") from error
    if not isinstance(data, dict):
        raise InputError(str(path), f"must be a JSON object, not {type(data).__name__}")
    return data


def check_same_settings(folder: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    """InputError if the work in `folder` was begun with settings (`before`) that differ from `now`. It names the first
    difference."""
    for name in {**before, **now}:
        if before.get(name) != now.get(name):
            reason = f"was begun with {before.get(name)!r}, not {now.get(name)!r}; choose another folder"
            raise InputError(str(folder), reason, field=name)
