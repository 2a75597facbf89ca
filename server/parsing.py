"""Reasoning, content and tool calls by what the loop knows, in place of vLLM's guess from the text.

The loop knows of every token whether it is thinking, a marker or the answer. This parser takes its word; only a tool
call inside the answer is left to vLLM's tool parser, and an answer in channels to vLLM's parser of the Harmony format.
"""

from collections.abc import Sequence
from typing import Any

from drr.loop.formats import Channels, ReasoningFormat, TurnState
from server.plan import PLAN_KEY, ResponsePlan, Told
from server.vllm_api import DeltaMessage, FunctionCall, OpenAIServingChat, Parser, ParserManager

Parsed = tuple[str | None, str | None, list[FunctionCall] | None]


class PhaseParser(Parser):
    """One choice of a response, or a whole response's outputs one after the other.

    Subclasses say what is behind it: `answers`, the parser class for answers with tool calls (None without a tool
    parser); `plain`, vLLM's own for responses that the loop does not make; and the Reasoner's `form`.
    """

    form: ReasoningFormat
    answers: type[Parser] | None = None
    plain: type[Parser] | None = None

    def __init__(self, tokenizer: Any, tools: Any = None, *args: Any, **kwargs: Any) -> None:
        super().__init__(tokenizer, tools, *args, **kwargs)
        self._answers = None if self.answers is None else self.answers(tokenizer, tools, *args, **kwargs)
        self._plain = None if self.plain is None else self.plain(tokenizer, tools, *args, **kwargs)

    def is_reasoning_end(self, input_ids: list[int]) -> bool:
        """Whether a prompt leaves no thinking open."""
        return self.form.start(input_ids).state is TurnState.CLOSED

    def adjust_request(self, request: Any) -> Any:
        return request if self._plain is None else self._plain.adjust_request(request)

    def set_prompt_token_ids(self, prompt_token_ids: Sequence[int]) -> None:
        if self._plain is not None:
            self._plain.set_prompt_token_ids(prompt_token_ids)

    def count_reasoning_tokens(self, token_ids: Sequence[int]) -> int:
        """Left to the loop's account."""
        return 0

    # Whole responses ---------------------------------------------------------------------------------------

    def parse(
        self,
        model_output: str,
        request: Any,
        enable_auto_tools: bool = False,
        model_output_token_ids: Sequence[int] = (),
    ) -> Parsed:
        plan = _plan(request)
        if plan is None or not plan.account.looped:
            if self._plain is None:
                return None, model_output, None
            found: Parsed = self._plain.parse(model_output, request, enable_auto_tools, model_output_token_ids)
            return found
        choice = sorted(plan.account.told)[plan.account.parsed]
        plan.account.parsed += 1
        told = plan.account.of(choice)
        content = "".join(told.content)
        calls: list[FunctionCall] | None = None
        if self._answers is not None:
            ids = _answer_ids(self.form, told)
            _, parsed_content, calls = self._answers.parse(content, request, enable_auto_tools, ids)
            content = parsed_content or ""
        if self._plain is None and calls is None:
            return "".join(told.reasoning) or None, content, None
        return "".join(told.reasoning) or None, content or None, calls

    # Streams -----------------------------------------------------------------------------------------------

    def parse_delta(
        self,
        delta_text: str,
        delta_token_ids: list[int],
        request: Any,
        prompt_token_ids: list[int] | None = None,
        *,
        finished: bool,
    ) -> DeltaMessage | None:
        plan = _plan(request)
        if plan is None or not plan.account.looped:
            if self._plain is None:
                return DeltaMessage(content=delta_text)
            return self._plain.parse_delta(delta_text, delta_token_ids, request, prompt_token_ids, finished=finished)
        match plan.field_of(plan.account.current):
            case "reasoning":
                shown = delta_text and request.include_reasoning
                return DeltaMessage(reasoning=delta_text) if shown else None
            case "content":
                return self._content(plan, delta_text, request, finished=finished)
            case _:
                return None

    def _content(self, plan: ResponsePlan, text: str, request: Any, *, finished: bool) -> DeltaMessage | None:
        if self._answers is None:
            return DeltaMessage(content=text)
        told = plan.account.of(plan.account.current_choice)
        ids = _answer_ids(self.form, told)
        told.marker_ids.clear()
        told.answer_ids.clear()
        return self._answers.parse_delta(text, ids, request, [], finished=finished)


def phase_parser(handler: OpenAIServingChat, form: ReasoningFormat, tool_parser: str | None) -> type[PhaseParser]:
    """The parser class for a chat handler, beside the parser that vLLM made for it."""
    plain_class = handler.parser_cls
    answers_class: type[Parser] | None = None
    if isinstance(form, Channels):
        answers_class = plain_class
    elif plain_class is not None and plain_class.tool_parser_cls is not None:
        answers_class = ParserManager.get_parser(
            tool_parser_name=tool_parser, enable_auto_tools=True, tokenizer=handler.renderer.tokenizer
        )
    reasoning_form = form

    class _PhaseParser(PhaseParser):
        reasoning_parser_cls = None if plain_class is None else plain_class.reasoning_parser_cls
        tool_parser_cls = None if plain_class is None else plain_class.tool_parser_cls
        form = reasoning_form
        answers = answers_class
        plain = plain_class

    return _PhaseParser


def _answer_ids(form: ReasoningFormat, told: Told) -> list[int]:
    """The ids of an answer as its parser wants them: in channels, from the header of the answer's first message."""
    if not isinstance(form, Channels):
        return list(told.answer_ids)
    ids, channel = [*told.marker_ids, *told.answer_ids], form.ids["channel"]
    return ids[ids.index(channel) :] if channel in told.marker_ids else ids


def _plan(request: Any) -> ResponsePlan | None:
    plan = (request.vllm_xargs or {}).get(PLAN_KEY)
    return plan if isinstance(plan, ResponsePlan) else None
