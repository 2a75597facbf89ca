"""The files of a local folder of data, by configuration (a sub-folder) and split (the files' names)."""

import re
from pathlib import Path

from drr.errors import InputError

PACKING_SUFFIXES = (".gz", ".bz2", ".xz", ".zst")
DATA_SUFFIXES = (".jsonl", ".ndjson", ".json", ".csv", ".tsv", ".parquet", ".pq", ".arrow", ".feather")

_USUAL_SPLIT = "train"
_SPLITS = {
    "train": ("train", "training"),
    "validation": ("validation", "valid", "val", "dev", "development"),
    "test": ("test", "testing", "eval", "evaluation"),
}
_SHARD = re.compile(r"[-_]\d+([-_]of[-_]\d+)?$")
_NO_DATA = ("dataset_info", "dataset_infos", "dataset_dict", "state", "config", "metadata", "package", "manifest")
"""Names of JSON files that tell of the data beside them."""


def bare_name(name: str) -> str:
    """A file's name without the suffixes of data and packing."""
    for suffixes in (PACKING_SUFFIXES, DATA_SUFFIXES):
        suffix = next((suffix for suffix in suffixes if name.lower().endswith(suffix)), "")
        name = name[: len(name) - len(suffix)]
    return name


def data_files(folder: Path, config: str, split: str) -> tuple[list[Path], str]:
    """The files of a configuration and split, in order, and the split's name. Empty names take the only configuration,
    and the split `train` or the only one there is. InputError names what there is instead."""
    root = _root(folder, config)
    files = _data_in(root)
    if not files:
        raise InputError(str(root), f"holds no data files ({', '.join(DATA_SUFFIXES)}, also packed)")
    if not config:
        root, files = _only_configuration(root, files)
    by_split: dict[str, list[Path]] = {}
    for path in files:
        by_split.setdefault(_split_of(path, root), []).append(path)
    if not split and not set(by_split) & set(_SPLITS):
        return files, "all files"
    wanted = _usual_name(split or _USUAL_SPLIT)
    if wanted not in by_split and not split and len(by_split) == 1:
        wanted = next(iter(by_split))
    if wanted not in by_split:
        raise InputError(str(root), f"has no split {split or wanted!r}; there are {_listed(by_split)}")
    return by_split[wanted], wanted


def _root(folder: Path, config: str) -> Path:
    root = folder / config
    if root.is_dir() and (not config or folder.resolve() in root.resolve().parents):
        return root
    there = sorted({path.relative_to(folder).parts[0] for path in _data_in(folder) if path.parent != folder})
    reason = f"has no configuration {config!r}; there are {_listed(there)}. A split alone is {folder}::SPLIT"
    raise InputError(str(folder), reason)


def _data_in(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and _holds_data(path, folder))


def _holds_data(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith((".", "_")) for part in path.relative_to(folder).parts)
    return not hidden and bare_name(path.name) not in (path.name, *_NO_DATA) and _has_data_suffix(path.name)


def _has_data_suffix(name: str) -> bool:
    packing = next((suffix for suffix in PACKING_SUFFIXES if name.lower().endswith(suffix)), "")
    return name[: len(name) - len(packing)].lower().endswith(DATA_SUFFIXES)


def _only_configuration(root: Path, files: list[Path]) -> tuple[Path, list[Path]]:
    """The only sub-folder that is no split and no plain `data`, if all files are in it. InputError if there are
    several."""
    tops = {path.relative_to(root).parts[0] for path in files if path.parent != root}
    configs = sorted(top for top in tops if top != "data" and _usual_name(top) not in _SPLITS)
    beside = [path for path in files if path.parent == root or path.relative_to(root).parts[0] not in configs]
    if not configs or beside:
        return root, beside or files
    if len(configs) > 1:
        raise InputError(str(root), f"has several configurations: name one of {_listed(configs)} as {root}:NAME")
    return root / configs[0], files


def _split_of(path: Path, root: Path) -> str:
    """The split that a file belongs to: a usual name of a split in its name or in that of a folder around it, or else
    its own name without the number of the shard."""
    stem = bare_name(path.name)
    for part in (stem, *reversed(path.relative_to(root).parts[:-1])):
        words = re.split(r"[^a-z]+", part.casefold())
        found = next((split for split, names in _SPLITS.items() if any(name in words for name in names)), None)
        if found is not None:
            return found
    return _SHARD.sub("", stem)


def _usual_name(split: str) -> str:
    return next((usual for usual, names in _SPLITS.items() if split.casefold() in names), split)


def _listed(names: object) -> str:
    return ", ".join(map(str, names)) if names else "none"  # type: ignore[call-overload]
