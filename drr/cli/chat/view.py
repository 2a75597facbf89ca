"""A response on the console while it streams: closed steps with their scores in the margin, the cut, the answer and the
account. On a terminal the step in progress is shown, too; elsewhere there are plain lines only."""

from types import TracebackType
from typing import Any, Self

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from drr.cli.chat.steps import ClosedStep, StepTexts
from drr.cli.chat.stream import Event
from drr.cli.chat.trace import Run

_AMBER, _TEAL = (217, 151, 58), (38, 176, 148)
"""The colours of a p_now of 0 and of 1."""

_SEPARATOR = "\n\n[this attempt was rejected; here is another]\n\n"
"""What the server puts between attempts where nobody named another text."""

_ENDS = {
    "stop": "stopped here",
    "rethink": "this attempt is rejected",
    "nudge": "the model wanted to answer, and was made to go on",
}


def colour(p_now: float | None) -> str:
    """From amber, unsure, to teal, sure; grey without a score."""
    if p_now is None:
        return "bright_black"
    mixed = (round(low + p_now * (high - low)) for low, high in zip(_AMBER, _TEAL, strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


class ResponseView:
    """Shows one run. Use it as a context manager, and `feed` it every event."""

    def __init__(self, console: Console, run: Run, *, acts: bool) -> None:
        """`acts` says whether verdicts have an effect: with full thinking they are only told."""
        self._console, self._run, self._acts = console, run, acts
        self._steps, self._answer, self._attempt = StepTexts(run.step_rule), "", 0
        self._stopped = False
        self._live = (
            Live(console=console, refresh_per_second=12, transient=True, vertical_overflow="crop")
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_thinking()
        if self._live is not None:
            self._live.update(Text())
            self._live.stop()
        if self._answer.strip():
            self._console.print()
            self._console.print(Text(self._answer.strip(), style="bold"))

    def feed(self, event: Event) -> None:
        """Show what this event tells."""
        self._run.events.append(event)
        match event.kind:
            case "reasoning":
                first, *others = event.value.split(_SEPARATOR)
                self._add(first)
                for other in others:
                    self._end_thinking()
                    self._add(other)
            case "step":
                for step in self._steps.add_step(event.value):
                    self._show(step)
            case "content" | "refusal":
                self._end_thinking()
                self._answer += event.value
        if self._live is not None:
            self._live.update(self._in_progress())

    def _add(self, text: str) -> None:
        for step in self._steps.add_text(text):
            self._show(step)

    def _end_thinking(self) -> None:
        for step in self._steps.finish():
            self._show(step)
        if self._steps.open.strip():
            self._console.print(_row("", "bright_black", self._steps.open))
        self._steps.open = ""

    def _in_progress(self) -> RenderableType:
        shown: list[RenderableType] = []
        if self._steps.open.strip():
            shown.append(_row("…", "bright_black", self._newest(self._steps.open), dim=True))
        if self._answer.strip():
            shown += [Text(), Text(self._newest(self._answer), style="bold")]
        return Group(*shown)

    def _newest(self, text: str) -> str:
        """As much of the end of a text as half a screen holds."""
        width, height = self._console.size
        lines = text.strip().splitlines()[-max(1, height // 2) :]
        return "\n".join(lines)[-max(1, width * height // 3) :]

    def _show(self, step: ClosedStep) -> None:
        if step.attempt != self._attempt:
            self._attempt = step.attempt
            self._console.print(Text(f"       attempt {step.attempt + 1}", style="bold"))
        p_now = step.told.get("p_now")
        score = "  –" if p_now is None else f"{p_now:.2f}"
        self._console.print(_row(score, colour(p_now), step.text or "(its text was not sent)"))
        said = _ENDS.get(str(step.told.get("verdict")))
        if said is None or self._stopped:
            return
        if self._acts:
            self._console.print(Text(f"       ── {said} ──", style="red"))
        elif step.told["verdict"] == "stop":
            self._stopped = True
            self._console.print(Text("       ── the judge would stop here ──", style="red"))


def _row(score: str, style: str, text: str, *, dim: bool = False) -> Table:
    table = Table.grid(padding=(0, 1))
    table.add_column(width=5, justify="right", no_wrap=True)
    table.add_column(width=1)
    table.add_column(ratio=1)
    table.add_row(Text(score, style=style), Text("▎", style=style), Text(text.strip(), style="dim" if dim else ""))
    return table


def account_line(run: Run) -> str:
    """What a response amounts to, in one line; what nobody told is left out."""
    account, usage = run.told("account"), run.told("usage")
    parts: list[str] = []
    if account is not None:
        parts = [_ended(account), *_counts(account)]
        if account.get("risk") is not None:
            parts.append(_promise(account["risk"]))
    elif usage is not None:
        parts.append(f"{usage.get('completion_tokens')} tokens")
    if run.events:
        parts.append(f"{run.events[-1].ms / 1000:.1f} s")
    return ", ".join(parts)


def _ended(account: dict[str, Any]) -> str:
    cause = str(account["stop_cause"]).replace("_", " ")
    return cause if account["attempts"] == 1 else f"{cause} after {account['attempts']} attempts"


def _counts(account: dict[str, Any]) -> list[str]:
    names = (("thinking", "thinking tokens"), ("discarded", "thrown away"), ("probe", "for probes"))
    counts = [(account.get(f"{name}_tokens"), meaning) for name, meaning in names]
    return [f"{count} {meaning}" for count, meaning in counts if count]


def _promise(risk: dict[str, Any]) -> str:
    if risk["certified"] is None:
        return f"nothing certified for a risk of {risk['max_lost_correct']:.2g}"
    held = "" if risk["holds"] else f" (not here: {'; '.join(risk['broken_by'])})"
    return f"certified to lose at most {100 * risk['certified']:g} %{held}"


def comparison(drr: Run, full: Run) -> str:
    """DRR beside full thinking on the same question, in one line; empty where one of them tells no count."""
    own, whole = drr.told("account"), full.told("account")
    if own is None or whole is None or None in (own["thinking_tokens"], whole["thinking_tokens"]):
        return ""
    spent, total = (_generated(run, account) for run, account in ((drr, own), (full, whole)))
    more = total - spent
    word = "more" if more >= 0 else "fewer"
    seconds = full.events[-1].ms / 1000 - drr.events[-1].ms / 1000
    return f"Full thinking took {abs(more)} {word} tokens in all ({total} and {spent}), {seconds:+.1f} s."


def _generated(run: Run, account: dict[str, Any]) -> int:
    usage = run.told("usage")
    if usage is not None:
        return int(usage["completion_tokens"])
    return sum(int(account[f"{name}_tokens"]) for name in ("thinking", "answer", "discarded", "probe"))
