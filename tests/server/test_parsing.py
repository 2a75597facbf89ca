"""What vLLM's parsers are handed of an answer, and what is made of what they say."""

from collections.abc import Sequence
from typing import Any

import pytest
from vllm.entrypoints.generate.base.protocol import DeltaFunctionCall, DeltaToolCall

from drr.loop.formats import Channels, MarkerTokens, Part, ReasoningFormat
from drr.loop.reasoner import Token, injected
from drr.loop.response import Emit
from server.parsing import PhaseParser
from server.plan import PLAN_KEY, ResponsePlan
from server.resolve import resolve
from server.settings import Defaults
from server.vllm_api import ChatCompletionRequest, DeltaMessage, Parser

START, ASSISTANT, CHANNEL, MESSAGE, END, TO, FINAL, ANALYSIS = 40, 44, 41, 42, 43, 45, 46, 47
CHANNELS = Channels(
    close_ids=(END, START, ASSISTANT, CHANNEL, FINAL, MESSAGE),
    close_text="",
    open_ids=(CHANNEL, ANALYSIS, MESSAGE),
    skip_ids=(CHANNEL, FINAL, MESSAGE),
    header=(START, ASSISTANT),
    ids={"start": START, "channel": CHANNEL, "message": MESSAGE, "end": END},
    decode=lambda ids: "".join(
        {CHANNEL: "<|channel|>", ANALYSIS: "analysis", FINAL: "final"}.get(own, "") for own in ids
    ),
)
MARKERS = MarkerTokens(open_ids=(1,), close_ids=(2,), close_text="</think>")


class Answers(Parser):
    """Keeps what it is handed; every text is a part of one tool call."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.seen: list[tuple[str, list[int]]] = []

    def is_reasoning_end(self, input_ids: list[int]) -> bool:
        return True

    def parse(self, model_output: str, request: Any, tools: bool = False, ids: Sequence[int] = ()) -> Any:
        self.seen.append((model_output, list(ids)))
        return "late thought", model_output, None

    def parse_delta(self, text: str, ids: list[int], request: Any, prompt: Any = None, *, finished: bool) -> Any:
        self.seen.append((text, ids))
        function = DeltaFunctionCall(arguments=text) if len(self.seen) > 1 else DeltaFunctionCall(name=text)
        return DeltaMessage(tool_calls=[DeltaToolCall(index=0, function=function)]) if text else None


def parser_of(reasoning_form: ReasoningFormat, *emits: Emit) -> tuple[PhaseParser, Answers, ChatCompletionRequest]:
    """A parser of a response that has handed this on."""

    class Own(PhaseParser):
        form = reasoning_form
        answers = Answers

    plan = ResponsePlan(resolve(None, Defaults("off", None, scorer=None)), "question", None)
    plan.account.looped = True
    for emit in emits:
        plan.tell(0, emit)
    request = ChatCompletionRequest(messages=[{"role": "user", "content": "question"}])
    request.vllm_xargs = {PLAN_KEY: plan}  # type: ignore[dict-item]
    parser = Own(None)
    assert isinstance(parser._answers, Answers)
    return parser, parser._answers, request


def emitted(part: Part, *ids: int) -> Emit:
    return Emit(tuple(Token(own, f"<{own}>") for own in ids), "".join(f"<{own}>" for own in ids), part)


CLOSES = [
    (emitted(Part.MARKER, END, START, ASSISTANT, TO, CHANNEL, MESSAGE), [TO, CHANNEL, MESSAGE]),
    (emitted(Part.MARKER, END, CHANNEL, FINAL, MESSAGE), [CHANNEL, FINAL, MESSAGE]),
    (Emit(injected(CHANNELS.close_ids, ""), "", Part.MARKER), [CHANNEL, FINAL, MESSAGE]),
    (Emit(injected(CHANNELS.skip_ids, ""), "", Part.MARKER), [CHANNEL, FINAL, MESSAGE]),
    (
        emitted(Part.MARKER, CHANNEL, ANALYSIS, MESSAGE, END, START, ASSISTANT, CHANNEL, FINAL, MESSAGE),
        [CHANNEL, FINAL, MESSAGE],
    ),
]


@pytest.mark.parametrize(("marker", "header"), CLOSES)
def test_an_answer_in_channels_is_parsed_from_the_header_of_its_message(marker: Emit, header: list[int]) -> None:
    told = (emitted(Part.THINKING, 50), marker, emitted(Part.ANSWER, 51, 52))
    parser, answers, request = parser_of(CHANNELS, *told)
    parser.parse_delta("<51><52>", [51, 52], request, [START, ASSISTANT], finished=False)
    assert answers.seen == [("<51><52>", [*header, 51, 52])]
    parser, answers, request = parser_of(CHANNELS, *told)
    parser.set_prompt_token_ids([START, ASSISTANT])
    assert parser.parse("", request)[0] == "<50>late thought"
    assert answers.seen == [("<51><52>", [*header, 51, 52])]


def test_an_answer_whose_channel_the_prompt_opened_is_parsed_behind_a_header() -> None:
    prompt, header = [START, ASSISTANT, CHANNEL, FINAL, MESSAGE], [CHANNEL, FINAL, MESSAGE]
    parser, answers, request = parser_of(CHANNELS, emitted(Part.ANSWER, 51))
    parser.parse_delta("<51>", [51], request, prompt, finished=False)
    parser.parse_delta("", [], request, prompt, finished=True)
    assert answers.seen == [("<51>", [*header, 51]), ("", [])]
    parser, answers, request = parser_of(CHANNELS, emitted(Part.ANSWER, 51))
    parser.set_prompt_token_ids(prompt)
    parser.parse("", request)
    assert answers.seen == [("<51>", [*header, 51])]


def test_tokens_that_come_at_once_are_parsed_one_by_one_and_come_out_as_one() -> None:
    late = Emit((Token(5, "name"), Token(6, ""), Token(7, "{"), Token(8, "}"), Token(9, "")), "name{}", Part.ANSWER)
    parser, answers, request = parser_of(MARKERS, late)
    delta = parser.parse_delta("name{}", [5, 6, 7, 8, 9], request, [], finished=False)
    assert answers.seen == [("name", [5]), ("{", [6, 7]), ("}", [8]), ("", [9])]
    assert delta is not None
    (call,) = delta.tool_calls
    assert call.function is not None
    assert (call.function.name, call.function.arguments) == ("name", "{}")
    assert delta.model_dump(exclude_unset=True) == {
        "tool_calls": [{"index": 0, "function": {"name": "name", "arguments": "{}"}}]
    }


def test_tokens_whose_texts_are_not_known_are_parsed_together() -> None:
    parser, answers, request = parser_of(MARKERS, Emit((Token(5, ""), Token(6, "")), "both", Part.ANSWER))
    parser.parse_delta("both", [5, 6], request, [], finished=True)
    assert answers.seen == [("both", [5, 6])]
