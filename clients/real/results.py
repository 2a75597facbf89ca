"""What was seen, as rows; and what worked before and does not now."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

Key = tuple[str, str, str]
"""Client, call, variant."""


@dataclass(frozen=True)
class Result:
    """One call of one client in one variant. Either `error` or `cannot` (the client has no way to send it) or `seen`, a
    `common.Seen` as JSON."""

    client: str
    version: str
    call: str
    variant: str
    error: str | None = None
    cannot: str | None = None
    seen: Mapping[str, Any] = field(default_factory=dict)

    @property
    def key(self) -> Key:
        return self.client, self.call, self.variant

    @property
    def works(self) -> bool:
        """Whether something arrived and was right, where that can be said."""
        return self.error is None and self.cannot is None and self.seen.get("right") is not False

    @property
    def trouble(self) -> str | None:
        """Why it does not work, where it was tried."""
        if self.cannot is not None or self.works:
            return None
        return self.error or f"wrong answer: {self.seen.get('content')!r}"


def from_json(rows: Iterable[Mapping[str, Any]]) -> list[Result]:
    return [Result(**row) for row in rows]


def read(path: Path) -> list[Result]:
    """A recorded run; ValueError if the file is none."""
    try:
        return from_json(json.loads(path.read_text())["results"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{path} is no record of clients: {error}") from None


def write(path: Path, results: Sequence[Result], skipped: Mapping[str, str]) -> None:
    rows = [{name: value for name, value in vars(result).items() if value} for result in results]
    path.write_text(json.dumps({"skipped": dict(skipped), "results": rows}, indent=1, ensure_ascii=False) + "\n")


def broken(results: Sequence[Result], before: Sequence[Result]) -> list[str]:
    """A sentence for each call that worked before and fails now. Clients that did not run are nobody's fault."""
    now = {result.key: result for result in results}
    ran = {result.client for result in results}
    sentences = []
    for earlier in before:
        if not earlier.works or earlier.client not in ran:
            continue
        result = now.get(earlier.key)
        if result is None or not result.works:
            trouble = (result.trouble or result.cannot) if result is not None else "it was not tried"
            sentences.append(f"{', '.join(earlier.key)} worked before and does not now: {trouble}")
    return sentences
