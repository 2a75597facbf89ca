"""Whether there is such a model, told before anything is loaded: a folder at once, a hub's id within seconds."""

import json
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path

from drr.errors import InputError, first_line

HUB_SECONDS = 6.0
"""How long a hub may take to say whether it has a model."""

CONFIG_FILES = ("config.json", "params.json", "adapter_config.json")
TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "tekken.json",
    "vocab.json",
    "vocab.txt",
)

_HUB_ID = re.compile(r"(?:[\w][\w.-]*/)?[\w][\w.-]*", re.ASCII)
_LONGEST_ID = 96
_YES = ("1", "ON", "YES", "TRUE")


def check_model(name: str, option: str, files: Sequence[str] = CONFIG_FILES) -> None:
    """InputError, which names `option`, unless `name` is a folder with one of `files`, or a model that the local cache
    or the hub has. What is clearly a path is never asked of the hub; other stores (`s3://...`) are left alone."""
    if not name:
        raise InputError(option, "must not be empty")
    if "://" in name:
        return
    path = Path(name)
    if path.is_dir():
        if not any((path / file).is_file() for file in files):
            raise InputError(option, f"{name} holds no model: it has no {' or '.join(files[:2])}")
        _check_readable(path, option, files)
        for weights in sorted(path.glob("*.safetensors")) if files is CONFIG_FILES else ():
            _check_whole(weights, option)
    elif path.is_file():
        if path.suffix != ".gguf":
            raise InputError(option, f"{name} is a file, not the folder of a model")
    elif is_path(name):
        raise InputError(option, f"there is no folder {name}")
    elif ":" not in name and not os.environ.get("VLLM_USE_MODELSCOPE"):
        _check_hub(name, option, files)


def is_path(name: str) -> bool:
    """Whether a name that nothing here has can only be meant as a path: no hub has such ids, or its first part is a
    folder here."""
    if name.startswith((".", "/", "~")) or name.endswith(("/", ".json", ".jsonl", ".safetensors")):
        return True
    first, slash, _ = name.partition("/")
    if slash and Path(first).is_dir():
        return True
    return ":" not in name and (not _HUB_ID.fullmatch(name) or len(name) > _LONGEST_ID)


def _check_readable(folder: Path, option: str, files: Sequence[str]) -> None:
    for file in files:
        if (folder / file).is_file() and not os.access(folder / file, os.R_OK):
            raise InputError(option, f"{folder / file} may not be read (permission denied)")


def _check_whole(weights: Path, option: str) -> None:
    """InputError for a safetensors file that ends before its last tensor: a download or a copy that was cut off."""
    size = weights.stat().st_size
    try:
        with weights.open("rb") as file:
            header = int.from_bytes(file.read(8), "little")
            if header > size:
                raise ValueError
            tensors = json.loads(file.read(header))
        ends = [tensor["data_offsets"][1] for name, tensor in tensors.items() if name != "__metadata__"]
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise InputError(option, f"{weights} holds no weights, or is damaged") from error
    if 8 + header + max(ends, default=0) > size:
        raise InputError(option, f"{weights} is not whole: it ends before its last tensor")


def _check_hub(name: str, option: str, files: Sequence[str]) -> None:
    from huggingface_hub import HfApi, try_to_load_from_cache

    if any(isinstance(try_to_load_from_cache(name, file), str) for file in files):
        return
    if any(os.environ.get(own, "").upper() in _YES for own in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE")):
        reason = "is no folder here nor in the local cache, and the hub may not be asked (HF_HUB_OFFLINE)"
        raise InputError(option, f"{name} {reason}")
    failures: list[Exception] = []

    def ask() -> None:
        try:
            HfApi().model_info(name, timeout=HUB_SECONDS)
        except Exception as error:  # whatever the network and the hub come up with
            failures.append(error)

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    asking.join(HUB_SECONDS)  # the look-up of the hub's address has no time limit of its own
    if asking.is_alive():
        raise InputError(option, f"there is no folder {name}, and the hub did not answer in {HUB_SECONDS:g} s")
    if failures:
        raise InputError(option, f"there is no folder {name}, and {_said(failures[0])}")


def _said(error: Exception) -> str:
    match type(error).__name__:
        case "RepositoryNotFoundError":
            return "the hub has no such model (or wants a token to show it: HF_TOKEN)"
        case "GatedRepoError":
            return "the hub wants its terms accepted and a token (HF_TOKEN)"
        case _:
            return f"the hub cannot be asked for it: {first_line(error)}"
