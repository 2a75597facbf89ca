"""Reasoning, content and tool calls by what the loop knows, in place of vLLM's guess from the text.

The loop knows of every token whether it is thinking, a marker or the answer. This parser takes its word; only a tool
call inside the answer is left to vLLM's tool parser, and an answer in channels to vLLM's parser of the Harmony format.
"""

from collections.abc import Sequence
from typing import Any

from drr.loop.formats import Channels, ReasoningFormat, TurnState, behind_last
from server.plan import ResponsePlan, Told, plan_of
from server.vllm_api import DeltaMessage, FunctionCall, Parser, ParserManager

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
        self._prompt_read, self._opened = False, list[int]()

    def is_reasoning_end(self, input_ids: list[int]) -> bool:
        """Whether a prompt leaves no thinking open."""
        return self.form.start(input_ids).state is TurnState.CLOSED

    def adjust_request(self, request: Any) -> Any:
        return request if self._plain is None else self._plain.adjust_request(request)

    def set_prompt_token_ids(self, prompt_token_ids: Sequence[int]) -> None:
        self._read_prompt(prompt_token_ids)
        if self._plain is not None:
            self._plain.set_prompt_token_ids(prompt_token_ids)

    def _read_prompt(self, ids: Sequence[int]) -> None:
        """An answer in channels whose message the prompt has opened is parsed behind the header of one."""
        self._prompt_read = True
        if isinstance(self.form, Channels) and self.form.start(ids).state is TurnState.CLOSED:
            self._opened = list(self.form.skip_ids)

    def _answer_ids(self, told: Told) -> list[int]:
        """The ids of an answer as its parser wants them: in channels, from the header of the answer's first message."""
        if not isinstance(self.form, Channels):
            return list(told.answer_ids)
        opened, self._opened = self._opened, []
        return [*opened, *_message_header(self.form, told.marker_ids), *told.answer_ids]

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
        plan = plan_of(request)
        if plan is None or not plan.account.looped:
            if self._plain is None:
                return None, model_output, None
            found: Parsed = self._plain.parse(model_output, request, enable_auto_tools, model_output_token_ids)
            return found
        choice = sorted(plan.account.told)[plan.account.parsed]
        plan.account.parsed += 1
        told = plan.account.of(choice)
        reasoning, content = "".join(told.reasoning), "".join(told.content)
        calls: list[FunctionCall] | None = None
        if self._answers is not None:
            ids = self._answer_ids(told)
            more, parsed_content, calls = self._answers.parse(content, request, enable_auto_tools, ids)
            reasoning, content = reasoning + (more or ""), parsed_content or ""
        if told.refusal:
            return reasoning or None, None, None
        if self._plain is None and calls is None:
            return reasoning or None, content, None
        return reasoning or None, content or None, calls

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
        plan = plan_of(request)
        if plan is None or not plan.account.looped:
            if self._plain is None:
                return DeltaMessage(content=delta_text)
            return self._plain.parse_delta(delta_text, delta_token_ids, request, prompt_token_ids, finished=finished)
        if not self._prompt_read:
            self._read_prompt(prompt_token_ids or [])
        match plan.field_of(plan.account.current):
            case "reasoning":
                shown = delta_text and request.include_reasoning
                return DeltaMessage(reasoning=delta_text) if shown else None
            case "content":
                return self._content(plan, delta_text, request, finished=finished)
            case "refusal":
                return DeltaMessage.model_validate({"refusal": delta_text})  # a field that vLLM's class lacks
            case _:
                return None

    def _content(self, plan: ResponsePlan, text: str, request: Any, *, finished: bool) -> DeltaMessage | None:
        if self._answers is None:
            return DeltaMessage(content=text)
        told = plan.account.of(plan.account.current_choice)
        pieces = self._pieces(told, text)
        told.forget_answer()
        last = len(pieces) - 1
        deltas = [
            self._answers.parse_delta(own, ids, request, [], finished=finished and place == last)
            for place, (own, ids) in enumerate(pieces)
        ]
        return _joined([delta for delta in deltas if delta is not None])

    def _pieces(self, told: Told, text: str) -> list[tuple[str, list[int]]]:
        """An output token by token, where that can be told: many at once, as come when a verdict has been waited for,
        are more than some of vLLM's tool parsers can follow."""
        ids, texts = self._answer_ids(told), told.answer_texts
        if isinstance(self.form, Channels) or len(ids) != len(texts) or "".join(texts) != text:
            return [(text, ids)]
        pieces: list[tuple[str, list[int]]] = []
        waiting: list[int] = []  # tokens whose text comes with a later one
        for own, token_id in zip(texts, ids, strict=True):
            waiting.append(token_id)
            if own:
                pieces.append((own, waiting))
                waiting = []
        return [*pieces, ("", waiting)] if waiting or not pieces else pieces


def phase_parser(
    plain_class: type[Parser] | None, tokenizer: Any, form: ReasoningFormat, tool_parser: str | None
) -> type[PhaseParser]:
    """The parser class for a handler, in place of the one that vLLM made for it."""
    answers_class: type[Parser] | None = None
    if isinstance(form, Channels):
        answers_class = plain_class
    elif plain_class is not None and plain_class.tool_parser_cls is not None:
        answers_class = ParserManager.get_parser(
            tool_parser_name=tool_parser, enable_auto_tools=True, tokenizer=tokenizer
        )
    reasoning_form = form

    class _PhaseParser(PhaseParser):
        reasoning_parser_cls = None if plain_class is None else plain_class.reasoning_parser_cls
        tool_parser_cls = None if plain_class is None else plain_class.tool_parser_cls
        form = reasoning_form
        answers = answers_class
        plain = plain_class

    return _PhaseParser


def _message_header(form: Channels, ids: list[int]) -> list[int]:
    """The header that ends these markers as vLLM's parser wants it: without the beginning of an assistant's turn."""
    begins = behind_last(ids, form.header)
    if begins is None:
        begins = ids.index(form.ids["channel"]) if form.ids["channel"] in ids else 0
    return ids[begins:]


def _joined(deltas: list[DeltaMessage]) -> DeltaMessage | None:
    """Several deltas as one, with one part of each tool call."""
    if len(deltas) < 2:
        return deltas[0] if deltas else None
    whole, calls = DeltaMessage(), dict[int, Any]()
    for name in ("content", "reasoning"):
        texts = [text for delta in deltas if (text := getattr(delta, name)) is not None]
        if texts:
            setattr(whole, name, "".join(texts))
    for call in [call for delta in deltas for call in delta.tool_calls]:
        known = calls.setdefault(call.index, call)
        if known is not call:
            _extend(known, call)
    if calls:
        whole.tool_calls = list(calls.values())
    return whole


def _extend(call: Any, more: Any) -> None:
    """Add to the delta of a tool call what comes next of it."""
    for name in ("id", "type"):
        if getattr(more, name) is not None:
            setattr(call, name, getattr(more, name))
    if call.function is None or more.function is None:
        call.function = call.function or more.function
        return
    for name in ("name", "arguments"):
        if getattr(more.function, name) is not None:
            setattr(call.function, name, (getattr(call.function, name) or "") + getattr(more.function, name))
