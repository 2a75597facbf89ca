"""A Reasoner that plays a script in the ids of a real tokenizer, and what vLLM's chat handler makes of it.

Everything between is real: the thinking engine, the loop, vLLM's detokenizer, vLLM's parsers and the parser that takes
the loop's word. Only the model is played.
"""

import random
from collections.abc import AsyncGenerator, Callable, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.logprobs import Logprob
from vllm.v1.engine.detokenizer import IncrementalDetokenizer

from drr.engine.formats import encode, tool_openers
from drr.judge.dm_folder import DEFAULT_NUDGE_CUE
from drr.loop.formats import Channels, PlainChain, ReasoningFormat
from drr.loop.response import Outcome
from drr.loop.rule import Rule
from drr.loop.steps import StepRule
from server.engine import ThinkingEngine
from server.parsing import PhaseParser, phase_parser
from server.plan import PLAN_KEY, ResponsePlan, Tools
from server.resolve import resolve
from server.runtime import DrrRuntime
from server.schema import DrrRequest
from server.settings import Defaults
from server.vllm_api import (
    AsyncLLM,
    ChatCompletionRequest,
    CompletionOutput,
    ParserManager,
    RequestOutput,
    SamplingParams,
)
from tests.fakes import FakeScorer

MAX_MODEL_LEN = 8192
MODEL_CONFIG: Any = SimpleNamespace(max_model_len=MAX_MODEL_LEN, architecture="Played")


@dataclass
class Script:
    """Plays `thought` behind `prompt`, and `answered` behind anything else that is asked for. Both end with the token
    that ends a turn. `groups` says how many tokens the next output holds. `asked` are the prompts of its requests,
    `grammars` whether each was held to a grammar."""

    tokenizer: Any
    prompt: list[int]
    thought: Sequence[int]
    answered: Sequence[int]
    groups: Callable[[], int]
    asked: list[list[int]] = field(default_factory=list)
    grammars: list[bool] = field(default_factory=list)

    async def generate(
        self, engine: Any, prompt: Any, params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        ids = list(prompt["prompt_token_ids"])
        self.asked.append(ids)
        self.grammars.append(params.structured_outputs is not None)
        ahead = self._ahead(ids)
        assert params.max_tokens is not None
        played, ended = ahead[: params.max_tokens], len(ahead) <= params.max_tokens
        request: Any = SimpleNamespace(
            request_id=request_id, sampling_params=params, prompt_token_ids=ids, prompt_embeds=None
        )
        detokenizer = IncrementalDetokenizer.from_new_request(self.tokenizer if params.detokenize else None, request)
        place = 0
        while place < len(played):
            group = played[place : place + self.groups()]
            place += len(group)
            last = place == len(played)
            stop = detokenizer.update(group, last and ended)
            last = last or stop is not None
            text = detokenizer.get_next_output_text(last, True)
            details: Any = None if params.logprobs is None else [{token: Logprob(-0.1)} for token in group]
            reason = ("stop" if ended or stop else "length") if last else None
            completion = CompletionOutput(0, text, group, None, details, finish_reason=reason, stop_reason=stop)
            yield RequestOutput(request_id, None, ids, None, [completion], last)
            if last:
                return

    def _ahead(self, ids: list[int]) -> list[int]:
        """What comes behind these ids."""
        output = ids[len(self.prompt) :]
        goes_on = ids[: len(self.prompt)] == self.prompt and list(self.thought[: len(output)]) == output
        return list(self.thought[len(output) :] if goes_on else self.answered)


@dataclass
class Shown:
    """What a client sees of a response. `calls` are the names and arguments of its tool calls."""

    reasoning: str
    content: str
    calls: list[tuple[str, str]]
    outcome: Outcome


def parser_class(
    tokenizer: Any, form: ReasoningFormat, parser: str, tool_parser: str | None = None
) -> type[PhaseParser]:
    """The parser class of a chat handler that was started with these parsers."""
    try:
        made = ParserManager.get_parser(
            tool_parser_name=tool_parser,
            reasoning_parser_name=parser or None,
            enable_auto_tools=tool_parser is not None,
            is_harmony=isinstance(form, Channels),
            tokenizer=tokenizer,
        )
    except ImportError as error:
        pytest.skip(f"vLLM's own parser needs a package that is not here: {error}")
    return phase_parser(made, tokenizer, form, tool_parser)


def thinking_engine(
    tokenizer: Any, form: ReasoningFormat, scores: Sequence[float], script: Script, monkeypatch: pytest.MonkeyPatch
) -> ThinkingEngine:
    """A ThinkingEngine over a played Reasoner; boundaries are scored with `scores`."""
    engine = object.__new__(ThinkingEngine)
    engine._admitted = set()
    engine.engine_core = SimpleNamespace(core_engines=[0], shutdown=lambda timeout=None: None)
    engine.renderer = SimpleNamespace(tokenizer=tokenizer, shutdown=lambda: None)
    engine.model_config = MODEL_CONFIG
    plain = isinstance(form, PlainChain)
    defaults = Defaults(
        mode="auto",
        rule=Rule(0.9),
        answer_tokens=64 if plain else 256,
        deadline=60.0,
        thinking_in="content" if plain else "reasoning",
        nudge_cue_ids=encode(tokenizer, DEFAULT_NUDGE_CUE),
    )
    scorers: Any = {"dm": FakeScorer(list(scores))}
    engine.drr = DrrRuntime(form, StepRule(), scorers, defaults, tool_texts=tool_openers(tokenizer))
    monkeypatch.setattr(ThinkingEngine, "_check", _unchecked)
    monkeypatch.setattr(AsyncLLM, "generate", lambda self, *a, **k: script.generate(self, *a, **k))
    return engine


async def _unchecked(*_: Any) -> None:
    """No engine is there that could refuse anything."""


@dataclass
class Player:
    """A Reasoner with this tokenizer and format on a server that was started with `parser`."""

    tokenizer: Any
    form: ReasoningFormat
    parser: str
    monkeypatch: pytest.MonkeyPatch
    tool_parser: str | None = None

    async def shown(
        self,
        prompt: list[int],
        thought: Sequence[int],
        answered: Sequence[int] = (),
        *,
        stream: bool,
        groups: int | random.Random = 3,
        scores: Sequence[float] = (0.1,),
        drr: dict[str, Any] | None = None,
        tools: list[dict[str, Any]] | None = None,
        **asked: Any,
    ) -> tuple[Shown, Script]:
        """What a client sees of a response, and what the Reasoner was asked for."""

        def size() -> int:
            return groups.randint(1, 9) if isinstance(groups, random.Random) else groups

        script = Script(self.tokenizer, prompt, thought, answered, size)
        engine = thinking_engine(self.tokenizer, self.form, scores, script, self.monkeypatch)
        assert engine.drr is not None
        request = ChatCompletionRequest(
            model="m",
            messages=[{"role": "user", "content": "question"}],
            stream=stream,
            tools=tools,
            **asked,
        )
        made = parser_class(self.tokenizer, self.form, self.parser, self.tool_parser)

        def parser() -> PhaseParser:
            return made(self.tokenizer, request.tools, chat_template_kwargs={}, model_config=MODEL_CONFIG)

        first = parser()
        request = first.adjust_request(request)
        may_call: Tools = "may" if tools else "none"
        plan = ResponsePlan(
            resolve(DrrRequest.parse(drr or {}), engine.drr.defaults), "question", "fake", tools=may_call
        )
        request.vllm_xargs = {PLAN_KEY: plan}  # type: ignore[dict-item]
        params = request.to_sampling_params(request.max_completion_tokens or MAX_MODEL_LEN - len(prompt), {})
        outputs = engine.generate({"prompt_token_ids": prompt}, params, "request")
        if stream:
            found = await _streamed(outputs, parser(), request)
        else:
            found = await _whole(outputs, first, request, self.tool_parser is not None)
        (outcome,) = plan.account.outcomes.values()
        return Shown(*found, outcome), script

    def encode(self, text: str) -> list[int]:
        """The ids of a whole text."""
        return list(encode(self.tokenizer, text))


async def _streamed(
    outputs: AsyncGenerator[RequestOutput, None], parser: PhaseParser, request: ChatCompletionRequest
) -> tuple[str, str, list[tuple[str, str]]]:
    """As vLLM's chat handler streams."""
    reasoning, content, seen = "", "", 0
    calls: dict[int, tuple[str, str]] = {}
    async for output in outputs:
        (completion,) = output.outputs
        if not completion.text and not completion.token_ids and not seen:
            continue
        seen += len(completion.token_ids)
        delta = parser.parse_delta(
            completion.text,
            list(completion.token_ids),
            request,
            output.prompt_token_ids,
            finished=completion.finish_reason is not None,
        )
        if delta is None:
            continue
        reasoning += delta.reasoning or ""
        content += delta.content or ""
        for call in delta.tool_calls or []:
            name, arguments = calls.get(call.index, ("", ""))
            own = call.function
            calls[call.index] = (name + (own.name or ""), arguments + (own.arguments or ""))
    return reasoning, content, [calls[index] for index in sorted(calls)]


async def _whole(
    outputs: AsyncGenerator[RequestOutput, None], parser: PhaseParser, request: ChatCompletionRequest, tools: bool
) -> tuple[str, str, list[tuple[str, str]]]:
    """As vLLM's chat handler puts a whole response together."""
    final = [output async for output in outputs][-1]
    (completion,) = final.outputs
    if final.prompt_token_ids is not None:
        parser.set_prompt_token_ids(final.prompt_token_ids)
    reasoning, content, calls = parser.parse(completion.text, request, tools, completion.token_ids)
    return reasoning or "", content or "", [(call.name, call.arguments) for call in calls or []]
