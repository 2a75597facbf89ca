"""vLLM's flags, read from its source text: a flag that it cannot have is known before vLLM is imported."""

import re
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path

from drr.arguments import did_you_mean
from drr.errors import InputError

_FLAGS = ("engine/arg_utils.py", "entrypoints/**/cli_args.py", "utils/argparse_utils.py")
"""Where vLLM's flags stand literally, or as fields of the server's own settings."""
_FIELDS = ("config/*.py", "engine/arg_utils.py")
"""Where there are fields that a version might make flags of."""

_LITERAL = re.compile(r"[\"'](--?[A-Za-z][\w-]*)[\"']")
_FIELD = re.compile(r"^    (\w+):", re.MULTILINE)
_LEAST = 100
"""So few flags were never vLLM's: its sources are not what they used to be, and nothing is judged by them."""


def check_known(argv: Sequence[str], own: Iterable[str]) -> None:
    """InputError for an option that is neither one of `own` nor any of vLLM's, an abbreviation of one, or a part of
    one that takes JSON. What cannot be told is left to vLLM."""
    text = _text_of(_FLAGS)
    known = {*own, *_LITERAL.findall(text), *_as_flags(text)}
    if len(known) < _LEAST:
        return
    for argument in argv:
        if argument == "--":
            return
        if not re.match(r"--[A-Za-z]", argument):
            continue
        name = re.split(r"[=.]", argument)[0].replace("_", "-")
        positive = name.replace("--no-", "--", 1)
        if name == "--help" or any(flag.startswith((name, positive)) for flag in known):
            continue
        if positive not in _as_flags(_text_of(_FIELDS)):
            reason = f"neither DRR nor vLLM has this flag{did_you_mean([name], known)}"
            raise InputError(argument.partition("=")[0], reason)


def _as_flags(text: str) -> set[str]:
    return {f"--{name.replace('_', '-')}" for name in _FIELD.findall(text)}


def _text_of(patterns: Sequence[str]) -> str:
    spec = find_spec("vllm")
    if spec is None or not spec.submodule_search_locations:
        return ""
    folder = Path(next(iter(spec.submodule_search_locations)))
    paths = [path for pattern in patterns for path in sorted(folder.glob(pattern))]
    return "\n".join(path.read_text(encoding="utf-8", errors="replace") for path in paths)
