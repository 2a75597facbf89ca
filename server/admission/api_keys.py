"""API keys: several, each with a name and limits of its own, compared in constant time, read again on demand."""

import hashlib
import hmac
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from drr.errors import InputError

FLAG = "--drr-api-keys"
_NAME = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_SHORTEST = 16
"""Characters of a key in a file; fewer can be guessed."""


@dataclass(frozen=True, slots=True)
class KeyLimits:
    """What one key may use. `running` are requests at once, `tokens` are prompt and generated tokens a minute; None is
    no limit."""

    running: int | None = None
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key by its name; the key itself is kept as a digest only."""

    name: str
    digest: bytes = field(repr=False)
    limits: KeyLimits = KeyLimits()

    @classmethod
    def of(cls, name: str, key: str, limits: KeyLimits) -> "ApiKey":
        return cls(name, _digest(key), limits)


class ApiKeys:
    """The keys that are taken: those given on the command line or in the environment, and those of a file.

    A file has a line `name:key` for each, and behind it, where they differ from `usual`, the limits `running=N` and
    `tokens=N`. Blank lines and lines that begin with # count for nothing.
    """

    def __init__(self, given: Sequence[str] = (), path: Path | None = None, usual: KeyLimits = KeyLimits()) -> None:
        """InputError where the file cannot be used."""
        self._given = [ApiKey.of(f"key-{number}", key, usual) for number, key in enumerate(given, 1)]
        self._path, self._usual = path, usual
        self._keys: list[ApiKey] = []
        self.reload()

    def reload(self) -> int:
        """Read the file again, and tell how many keys there are now. InputError, and the keys stay as they were, where
        it cannot be used."""
        found = [] if self._path is None else _read(self._path, self._usual)
        names = [key.name for key in (*self._given, *found)]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise InputError(FLAG, f"{self._path}: there are two keys named {twice}")
        self._keys = [*self._given, *found]
        return len(self._keys)

    def __bool__(self) -> bool:
        """Whether keys are asked for. A file without any keeps everybody out."""
        return bool(self._keys) or self._path is not None

    def find(self, headers: Iterable[tuple[bytes, bytes]]) -> ApiKey | None:
        """The key that a request brings, as `Authorization: Bearer` or as Anthropic's `x-api-key`; None where it is
        none of ours. Every key is compared, whichever fits."""
        brought = [_digest(text) for text in _brought(headers)]
        found = None
        for key in self._keys:
            for digest in brought:
                if hmac.compare_digest(digest, key.digest):
                    found = key
        return found


def _brought(headers: Iterable[tuple[bytes, bytes]]) -> list[str]:
    texts = []
    for name, value in headers:
        text = value.decode("latin-1")
        if name == b"x-api-key":
            texts.append(text.strip())
        elif name == b"authorization":
            scheme, _, key = text.partition(" ")
            if scheme.lower() == "bearer":
                texts.append(key.strip())
    return texts


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode()).digest()


def _read(path: Path, usual: KeyLimits) -> list[ApiKey]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(FLAG, f"{path} cannot be read: {error}") from error
    return [
        _key(f"{path}, line {number}", line.strip(), usual)
        for number, line in enumerate(lines, 1)
        if line.strip() and not line.lstrip().startswith("#")
    ]


def _key(place: str, line: str, usual: KeyLimits) -> ApiKey:
    """The key in one line; no error repeats it."""
    entry, *settings = line.split()
    name, colon, key = entry.partition(":")
    if not colon or not _NAME.fullmatch(name):
        raise InputError(FLAG, f"{place}: must be name:key, the name of letters, digits, dots and dashes")
    if not key.isascii():
        raise InputError(FLAG, f"{place}: the key of {name} has characters that headers do not carry")
    if len(key) < _SHORTEST:
        raise InputError(FLAG, f"{place}: the key of {name} has fewer than {_SHORTEST} characters")
    limits = {"running": usual.running, "tokens": usual.tokens}
    for setting in settings:
        what, _, number = setting.partition("=")
        if what not in limits or not number.isdecimal() or int(number) < 1:
            raise InputError(FLAG, f"{place}: behind the key of {name} may stand running=N and tokens=N, from 1 up")
        limits[what] = int(number)
    return ApiKey.of(name, key, KeyLimits(**limits))
