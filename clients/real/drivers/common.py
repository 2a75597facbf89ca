"""What a driver is asked for, and what it reports. Only the standard library."""

import json
import re
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

OUTCOME_HEADER = "x-drr-outcome"
SENTENCE = r"^The answer is [0-9]{2}\.$"
"""What structured answers must match: the reference Reasoner knows no JSON, but it can say this inside it."""

NO_USAGE_ASKED = {"usage_asked": False}
"""The fact that a stream was asked for without its usage, as most are."""

_LONGEST = 400
_THINKING = ("reasoning", "reasoning_content", "thinking")


class CannotSendError(Exception):
    """The client has no way to send what this variant needs."""


@dataclass(frozen=True)
class Variant:
    """One way to ask: the model's name, and DRR's options as a `drr` object or as a header, or neither."""

    name: str
    model: str
    drr: dict[str, Any] | None = None
    headers: dict[str, str] = field(default_factory=dict)
    refuses: bool = False
    """Whether a refusal is what has to come, not an answer."""

    def listed(self, plain: "Variant") -> bool:
        """Whether listing models is another request than it is when asked plainly."""
        return self.model == plain.model and self.drr is None

    @property
    def extra_body(self) -> dict[str, Any]:
        return {} if self.drr is None else {"drr": self.drr}


@dataclass(frozen=True)
class Job:
    """What a driver is asked for; `url` ends with /v1, `root` does not. `questions` are pairs of a text and its answer;
    only clients that ask several take more than the first."""

    root: str
    questions: list[tuple[str, str]]
    variants: list[Variant]
    max_tokens: int
    work: str
    """A folder to write to."""

    @classmethod
    def from_json(cls, text: str) -> "Job":
        fields = json.loads(text)
        fields["variants"] = [Variant(**own) for own in fields["variants"]]
        fields["questions"] = [(text, answer) for text, answer in fields["questions"]]
        return cls(**fields)

    @property
    def url(self) -> str:
        return f"{self.root}/v1"

    @property
    def question(self) -> str:
        return self.questions[0][0]

    @property
    def messages(self) -> Any:
        return [{"role": "user", "content": self.question}]


@dataclass
class Seen:
    """What arrived in a client. `thinking`, `account` and `refusal` are by the place where they were found; `usage` has
    completion and reasoning tokens, None where the client does not tell; `header` is the outcome header."""

    content: str | None = None
    thinking: dict[str, str] = field(default_factory=dict)
    account: dict[str, str] = field(default_factory=dict)
    refusal: dict[str, str] = field(default_factory=dict)
    header: str | None = None
    usage: dict[str, int | None] | None = None
    right: bool | None = None
    """Whether the client's own result is right, where the content alone does not tell."""
    facts: dict[str, Any] = field(default_factory=dict)
    """What else is worth keeping, as the names of the models."""

    def add(self, value: Any, place: str = "") -> None:
        """Note what a response, or one more chunk of a stream, shows. Texts found in the same place are joined."""
        for path, name, found in _walk(value, place):
            if name == "drr" and isinstance(found, dict) and "stop_cause" in found:
                self.account[path] = str(found["stop_cause"])
            elif name in _THINKING and isinstance(found, str) and found:
                self.thinking[path] = self.thinking.get(path, "") + found
            elif name == "refusal" and isinstance(found, str) and found:
                self.refusal[path] = self.refusal.get(path, "") + found

    def add_chunks(self, chunks: Iterable[Any]) -> None:
        """Note how much thinking the chunks had that a client has put together, to tell whether all of it is kept."""
        told = Seen()
        for chunk in chunks:
            told.add(chunk)
        self.facts["thinking_length"] = max(map(len, told.thinking.values()), default=0)

    def add_text(self, text: str | None) -> None:
        self.content = (self.content or "") + (text or "")

    def count(self, usage: Mapping[str, Any] | None) -> None:
        """OpenAI's usage object."""
        if usage:
            details = usage.get("completion_tokens_details") or {}
            self.usage = {"completion": usage.get("completion_tokens"), "reasoning": details.get("reasoning_tokens")}


def _walk(value: Any, path: str) -> Iterator[tuple[str, str, Any]]:
    """(path, key, value) of everything below `value`, save what is inside a `drr` object."""
    if isinstance(value, dict):
        for key, own in value.items():
            below = f"{path}.{key}" if path else str(key)
            yield below, str(key), own
            if key != "drr":
                yield from _walk(own, below)
    elif isinstance(value, list):
        for index, own in enumerate(value):
            yield from _walk(own, f"{path}[{index}]")


Call = Callable[[Variant], Seen]

LISTING = "models.list"
"""The call that takes neither a model nor an object: a header is the one thing that goes out with it."""


def drive(client: str, version: str, calls: Callable[[Job], Mapping[str, Call]]) -> None:
    """Make every call in every variant of the job (first argument: its file) and write the results (second)."""
    job = Job.from_json(Path(sys.argv[1]).read_text())
    results = []
    for call, ask in calls(job).items():
        for variant in [own for own in job.variants if call != LISTING or own.listed(job.variants[0])]:
            row: dict[str, Any] = {"client": client, "version": version, "call": call, "variant": variant.name}
            try:
                seen = ask(variant)
            except CannotSendError as reason:
                results.append({**row, "cannot": str(reason)})
            except Exception as error:  # whatever a client raises is what is to be told
                results.append({**row, "error": _sentence(error)})
            else:
                if variant.refuses:
                    seen.right = False if says(seen.content or "", job.questions[0][1]) else None
                elif seen.right is None and seen.content is not None:
                    seen.right = says(seen.content, job.questions[0][1])
                results.append({**row, "seen": asdict(seen)})
    Path(sys.argv[2]).write_text(json.dumps(results, ensure_ascii=False))


def says(text: str, answer: str) -> bool:
    """Whether `answer` is the last number of `text`."""
    numbers = re.findall(r"-?\d+(?:\.\d+)?", text)
    return bool(numbers) and numbers[-1] == answer


def _sentence(error: Exception) -> str:
    """The kind of an error, its HTTP status where it has one, and what the server or the client says."""
    kind, status = type(error).__name__, getattr(error, "status_code", None)
    text = " ".join(str(_told(getattr(error, "body", None)) or error).split())
    return f"{kind} {status}: {text}"[:_LONGEST] if status is not None else f"{kind}: {text}"[:_LONGEST]


def _told(body: Any) -> str | None:
    """The message in the body of an error, in OpenAI's shape or in Anthropic's."""
    if not isinstance(body, dict):
        return None
    inner = body.get("error")
    found = inner.get("message") if isinstance(inner, dict) else body.get("message")
    return found if isinstance(found, str) else None
