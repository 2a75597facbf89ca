"""What the HTTP layer tells the engine about one response, and what the engine tells it back while it is made."""

from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass, field
from typing import Any, Literal

from drr.loop.formats import Part
from drr.loop.policy import StopCause
from drr.loop.response import Emit, Outcome, StepReport
from server.settings import Settings

PLAN_KEY = "drr"
"""Where a request's plan travels: `vllm_xargs[PLAN_KEY]`, then `SamplingParams.extra_args[PLAN_KEY]`."""

Field = Literal["reasoning", "content", "refusal"]
Tools = Literal["none", "may", "must"]


@dataclass(slots=True)
class Told:
    """What has been handed on of one choice. `marker_ids` and `answer_ids` are those behind its last thinking;
    `answer_texts` are the texts of the latter, as far as they are known one by one."""

    reasoning: list[str] = field(default_factory=list)
    content: list[str] = field(default_factory=list)
    refusal: list[str] = field(default_factory=list)
    marker_ids: list[int] = field(default_factory=list)
    answer_ids: list[int] = field(default_factory=list)
    answer_texts: list[str] = field(default_factory=list)

    def forget_answer(self) -> None:
        """What comes next begins anew."""
        self.marker_ids.clear()
        self.answer_ids.clear()
        self.answer_texts.clear()


@dataclass(slots=True)
class ResponseAccount:
    """What the engine has done so far, choice by choice.

    `current` is the part that the engine's newest output holds; vLLM's handler parses an output before it asks for the
    next. `steps` wait to be shown. `cut` are the choices that a limit cut off. `running` gives every choice's account
    so far. `stream` is the engine's generator, to be closed with the response. `cost` tells what the response took of
    an upstream, where one makes it.
    """

    current: Part = Part.ANSWER
    current_choice: int = 0
    looped: bool = False
    steps: list[tuple[int, StepReport]] = field(default_factory=list)
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    cut: set[int] = field(default_factory=set)
    running: list[Callable[[], Outcome]] = field(default_factory=list)
    told: dict[int, Told] = field(default_factory=dict)
    parsed: int = 0
    stream: AsyncGenerator[Any, None] | None = None
    cost: Callable[[], dict[str, Any]] | None = None

    def of(self, choice: int) -> Told:
        """What has been handed on of this choice."""
        return self.told.setdefault(choice, Told())


@dataclass(slots=True)
class ResponsePlan:
    """One request: its settings, and what the judge is to see of it. `broken_by` are what breaks the promise of a
    certified rule from the start; `tools` says whether the answer may or must be a tool call,
    `may_be_canary` whether the response may think in full for comparison."""

    settings: Settings
    question: str = field(repr=False)  # whoever logs a request's parameters must not log its text
    scorer_id: str | None
    broken_by: list[str] = field(default_factory=list)
    tools: Tools = "none"
    may_be_canary: bool = False
    account: ResponseAccount = field(default_factory=ResponseAccount, repr=False)

    def field_of(self, part: Part) -> Field | None:
        """Where a client sees this part; None where it does not."""
        if part is Part.ANSWER:
            return "content"
        if part is Part.REFUSAL:
            return "refusal"
        if part is Part.REJECTED:
            return "reasoning"
        if self.settings.thinking_in == "content":
            return "content"
        return "reasoning" if part is Part.THINKING else None

    def tell(self, choice: int, emit: Emit) -> None:
        """This is what the engine hands on next."""
        account = self.account
        account.current, account.current_choice = emit.part, choice
        told = account.of(choice)
        match self.field_of(emit.part):
            case "reasoning":
                told.reasoning.append(emit.text)
            case "content":
                told.content.append(emit.text)
            case "refusal":
                told.refusal.append(emit.text)
        if emit.part in (Part.THINKING, Part.REJECTED):
            told.forget_answer()
        elif emit.part is Part.MARKER:
            told.marker_ids.extend(token.id for token in emit.tokens)
        else:
            told.answer_ids.extend(token.id for token in emit.tokens)
            told.answer_texts.extend(token.text for token in emit.tokens)

    def end(self, choice: int, outcome: Outcome, finish_reason: str) -> None:
        """A choice is complete."""
        account = self.account
        abstained = outcome.stop_cause is StopCause.ABSTAINED  # then what is said comes with the end
        account.current, account.current_choice = Part.REFUSAL if abstained else Part.ANSWER, choice
        account.of(choice)
        account.outcomes[choice] = outcome
        if finish_reason == "length":
            account.cut.add(choice)


def with_plan(xargs: dict[str, Any] | None, plan: ResponsePlan) -> Any:
    """A request's `vllm_xargs`, through which its plan reaches the engine."""
    return {**(xargs or {}), PLAN_KEY: plan}


def plan_of(request: Any) -> ResponsePlan | None:
    """The plan that a request of vLLM's carries."""
    plan = (request.vllm_xargs or {}).get(PLAN_KEY)
    return plan if isinstance(plan, ResponsePlan) else None
