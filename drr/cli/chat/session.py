"""A conversation: what is asked for, what was said, and the commands that change it."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from drr.cli.chat.stream import AnswerError, ChatServer
from drr.cli.chat.trace import Run, trace_object, write_trace
from drr.cli.chat.view import ResponseView, account_line, comparison
from drr.errors import InputError
from drr.failures import in_one_sentence

MODES = ("auto", "off", "shadow", "stop", "rethink")
_MOST_ATTEMPTS = 64
_RULE = ("threshold", "max_lost_correct")
"""What chooses the rule by which full thinking tells where it would have been stopped."""

HELP = """\
/risk 1%        stopping early may lose 1 % of the right answers (/risk off)
/threshold 0.9  stop where p_now reaches this (/threshold off)
/attempts 3     three attempts at most: what is not believed is thought again
/mode shadow    auto, off, shadow, stop or rethink
/full           the last question again, thought in full
/save FILE      the last question as a trace, which the page at / can load
/new            forget what was said
/quit           leave (so does Ctrl-D); Ctrl-C stops an answer"""


@dataclass(slots=True)
class Wishes:
    """What is asked of DRR; None for what the server decides."""

    mode: str | None = None
    risk: float | None = None
    threshold: float | None = None
    attempts: int | None = None

    def drr(self) -> dict[str, Any]:
        """The `drr` object of a request."""
        rethinks = None if self.attempts is None else self.attempts - 1
        asked = {
            "mode": self.mode,
            "max_lost_correct": self.risk,
            "threshold": self.threshold,
            "max_rethinks": rethinks,
            "report": "steps",
        }
        return {name: value for name, value in asked.items() if value is not None}


def parse_share(text: str) -> float:
    """A share above 0 and below 1, as 1% or 0.01. ValueError otherwise."""
    stripped = text.strip()
    value = float(stripped.removesuffix("%")) / (100 if stripped.endswith("%") else 1)
    if not 0 < value < 1:
        raise ValueError(text)
    return value


@dataclass(slots=True)
class Session:
    """Asks `server` for `model`. Without `knows_drr` nothing is asked of DRR, and there are no scores. `usual` is what
    the server does unasked: it is asked for all the same, because a server may think in full where nothing is (a
    canary)."""

    console: Console
    server: ChatServer
    model: str
    knows_drr: bool
    step_rule: str = "blank_line"
    usual: dict[str, Any] = field(default_factory=dict)
    wishes: Wishes = field(default_factory=Wishes)
    said: list[dict[str, str]] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    """Of the last question."""

    def ask(self, question: str) -> bool:
        """Ask, and show the answer; returns whether there was one to its end."""
        messages = [*self.said, {"role": "user", "content": question}]
        body: dict[str, Any] = {
            "model": self.model,
            "messages": messages,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if self.knows_drr:
            body |= {"seed": random.getrandbits(31), "drr": {**self.usual, **self.wishes.drr()}}
        run = Run("drr", body, step_rule=self.step_rule)
        self.runs = [run]
        complete = self._show(run, acts=body.get("drr", {}).get("mode") != "shadow")
        if run.text("content"):
            self.said = [*messages, {"role": "assistant", "content": run.text("content").strip()}]
        return complete

    def full(self) -> bool:
        """The last question once more, thought in full."""
        if not self.runs:
            raise InputError("/full", "there is no question yet")
        if not self.knows_drr:
            raise InputError("/full", "this server always thinks in full")
        first = self.runs[0]
        same_rule = {name: first.request["drr"][name] for name in _RULE if name in first.request["drr"]}
        body = {**first.request, "drr": {"mode": "shadow", "report": "steps", **same_rule}}
        run = Run("full", body, step_rule=self.step_rule)
        self.runs = [first, run]
        complete = self._show(run, acts=False)
        told = comparison(first, run) if complete else ""
        if told:
            self.console.print(Text(told, style="cyan"))
        return complete

    def save(self, path: Path) -> None:
        """Write the last question and what came of it. InputError where that cannot be done."""
        if not self.runs:
            raise InputError("/save", "there is nothing to save yet")
        question = self.runs[0].request["messages"][-1]["content"]
        try:
            write_trace(path, trace_object(question, self.runs, model=self.model))
        except OSError as error:
            raise InputError(str(path), in_one_sentence(error) or str(error)) from error
        self.console.print(f"Saved in {path}.", style="dim", markup=False, highlight=False)

    def _show(self, run: Run, *, acts: bool) -> bool:
        problem = None
        with ResponseView(self.console, run, acts=acts) as view:
            try:
                for event in self.server.events(run.request):
                    view.feed(event)
            except AnswerError as error:
                problem = str(error)
            except KeyboardInterrupt:
                problem = "stopped"
        line = account_line(run)
        if line:
            self.console.print(Text(line, style="green"))
        if problem is not None:
            self.console.print(Text(problem[:1].upper() + problem[1:], style="red"))
        return problem is None

    def command(self, line: str) -> bool:
        """Do what a line that begins with a slash says; returns whether the conversation goes on. InputError says what
        is wrong with it."""
        name, _, rest = line.partition(" ")
        if name == "/quit":
            return False
        commands: dict[str, Callable[[str], object]] = {
            "/help": lambda _: self.console.print(HELP, markup=False, highlight=False),
            "/risk": lambda text: self._set("risk", text, parse_share, "a share, as in 1%", clears="threshold"),
            "/threshold": lambda text: self._set("threshold", text, parse_share, "between 0 and 1", clears="risk"),
            "/attempts": lambda text: self._set("attempts", text, _attempts, f"from 1 to {_MOST_ATTEMPTS}"),
            "/mode": lambda text: self._set("mode", text, _mode, f"one of {', '.join(MODES)}", off=""),
            "/full": lambda _: self.full(),
            "/save": lambda text: self.save(Path(text or "trace.json").expanduser()),
            "/new": lambda _: self.said.clear(),
        }
        if name not in commands:
            raise InputError(name, "is no command; /help lists them")
        commands[name](rest.strip())
        return True

    def _set(
        self,
        name: str,
        text: str,
        parse: Callable[[str], Any],
        wanted: str,
        clears: str | None = None,
        off: str = "off",
    ) -> None:
        if not self.knows_drr:
            raise InputError(f"/{name}", "has no effect: this server tells nothing of DRR")
        if text and text == off:
            setattr(self.wishes, name, None)
        else:
            try:
                setattr(self.wishes, name, parse(text))
            except ValueError as error:
                raise InputError(f"/{name}", f"must be {wanted}, not {text!r}") from error
            if clears is not None:
                setattr(self.wishes, clears, None)
        shown = {key: value for key, value in self.wishes.drr().items() if key != "report"}
        told = ", ".join(f"{key} {value}" for key, value in shown.items()) or "the server's own settings"
        self.console.print(f"Asked for: {told}.", style="dim", highlight=False)


def _attempts(text: str) -> int:
    value = int(text)
    if not 1 <= value <= _MOST_ATTEMPTS:
        raise ValueError(text)
    return value


def _mode(text: str) -> str:
    if text not in MODES:
        raise ValueError(text)
    return text
