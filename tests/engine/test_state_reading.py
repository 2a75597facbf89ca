"""How what heads say is asked for and read: a request's parameters, a Reasoner's tokens, a probe."""

import math
from collections.abc import AsyncGenerator
from typing import Any

import pytest
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import MAX_LOGPROB_TOKEN_IDS, RequestOutputKind, SamplingParams

from drr.engine.state_ids import MOST_NAMED, StateIds
from drr.engine.vllm_probe import VllmProbe
from drr.engine.vllm_reasoner import VllmReasoner, segment_params
from drr.loop.formats import MarkerTokens
from drr.loop.reasoner import Phase, Segment, Token
from drr.reference.tokenizer import train_tokenizer

TOKENIZER = train_tokenizer(["so: 31*3=93.\n\nSo the answer is 93.\n\n"] * 4)
IDS = StateIds(900, (901, 902, 903, 904))
SAID = (0.5, -1.0, 2.0, 0.25)
LEVEL = -420.0
TOLD = {900: Logprob(LEVEL), **{901 + place: Logprob(LEVEL + value) for place, value in enumerate(SAID)}}
THINK, ANSWER = Segment(Phase.THINK, 0, [1], [], 50), Segment(Phase.ANSWER, 1, [1, 5], [5], 50)


def test_the_most_ids_that_may_be_named_are_vllms() -> None:
    assert MOST_NAMED == MAX_LOGPROB_TOKEN_IDS


@pytest.mark.parametrize("logprobs", [None, 0])
def test_thinking_asks_for_what_heads_say(logprobs: int | None) -> None:
    asked = segment_params(SamplingParams(logprobs=logprobs), THINK, state_ids=IDS)
    assert (asked.logprobs, asked.logprob_token_ids) == (None, IDS.all)
    answer = segment_params(SamplingParams(logprobs=logprobs), ANSWER, state_ids=IDS)
    assert (answer.logprobs, answer.logprob_token_ids) == (logprobs, None)
    unjudged = segment_params(SamplingParams(logprobs=logprobs), THINK, judged=False, state_ids=IDS)
    assert (unjudged.logprobs, unjudged.logprob_token_ids) == (logprobs, None)


def test_ids_that_a_client_names_are_asked_for_too() -> None:
    params = SamplingParams(logprob_token_ids=[7, 8])
    assert segment_params(params, THINK, state_ids=IDS).logprob_token_ids == [7, 8, *IDS.all]
    without = segment_params(params, THINK)
    assert (without.logprobs, without.logprob_token_ids) == (None, [7, 8]), "vLLM refuses both at once"
    assert without.detokenize, "the client is shown their texts"
    assert params.logprob_token_ids == [7, 8]


def test_what_cannot_be_read_is_none() -> None:
    assert IDS.read(TOLD) == pytest.approx(SAID)
    assert IDS.read({token: told for token, told in TOLD.items() if token != 903}) is None
    assert IDS.read({token: told for token, told in TOLD.items() if token != 900}) is None
    for token in TOLD:
        assert IDS.read({**TOLD, token: Logprob(-math.inf)}) is None, "a grammar has forbidden it"
        assert IDS.read({**TOLD, token: Logprob(math.nan)}) is None


class Engine:
    """Generates `ids`, and tells what was asked for and nothing else."""

    def __init__(self, ids: list[int], *, chunk: int = 1, silent: bool = False) -> None:
        self.ids, self.chunk, self.silent = ids, chunk, silent
        self.asked: list[SamplingParams] = []
        self.prompts: list[list[int]] = []
        self.request_ids: list[str] = []
        self.closed = 0

    async def __call__(
        self, prompt: Any, params: SamplingParams, request_id: str, **_: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        self.asked.append(params)
        self.prompts.append(list(prompt["prompt_token_ids"]))
        self.request_ids.append(request_id)
        ids = self.ids[: params.max_tokens]
        try:
            for start in range(0, len(ids), self.chunk):
                group = ids[start : start + self.chunk]
                last = start + self.chunk >= len(ids)
                wants = params.logprobs is not None or params.logprob_token_ids is not None
                logprobs: Any = [self._told(token, params) for token in group] if wants else None
                done = CompletionOutput(0, "", group, None, logprobs, finish_reason="length" if last else None)
                yield RequestOutput(request_id, None, prompt["prompt_token_ids"], None, [done], finished=last)
        finally:
            self.closed += 1

    def _told(self, token: int, params: SamplingParams) -> dict[int, Logprob]:
        told = {token: Logprob(-0.1, rank=1)}
        for likely in range(params.logprobs or 0):
            told[10 + likely] = Logprob(-1.0 - likely)
        for named in params.logprob_token_ids or ():
            if named in TOLD:
                told |= {} if self.silent else {named: TOLD[named]}
            else:
                told[named] = Logprob(-5.0)
        return told


async def thought(params: SamplingParams, engine: Engine, **options: Any) -> list[Token]:
    reasoner = VllmReasoner(engine, TOKENIZER, {}, params, "request", {}, **{"state_ids": IDS, **options})
    return [token async for delta in reasoner.stream(THINK) for token in delta.tokens]


@pytest.mark.parametrize("chunk", [1, 3, 8])
@pytest.mark.parametrize("logprobs", [None, 0])
async def test_tokens_carry_what_heads_say_and_show_no_spare_id(logprobs: int | None, chunk: int) -> None:
    ids = TOKENIZER.encode("so: 31*3=93.", add_special_tokens=False)
    tokens = await thought(SamplingParams(logprobs=logprobs), Engine(ids, chunk=chunk))
    assert [token.id for token in tokens] == ids
    assert "".join(token.text for token in tokens) == "so: 31*3=93."
    for token in tokens:
        assert token.states == pytest.approx(SAID)
        assert token.logprob == -0.1
        assert set(token.detail) == {token.id}


async def test_a_clients_own_ids_are_shown_and_the_spare_ones_are_not() -> None:
    tokens = await thought(SamplingParams(logprob_token_ids=[7, 8]), Engine([20, 21]))
    assert [set(token.detail) for token in tokens] == [{20, 7, 8}, {21, 7, 8}]
    assert all(token.states == pytest.approx(SAID) for token in tokens)


@pytest.mark.parametrize(
    "params",
    [
        SamplingParams(logprobs=2),
        SamplingParams(logprobs=-1),
        SamplingParams(logprob_token_ids=list(range(100, 100 + MOST_NAMED - 2))),
    ],
)
async def test_what_a_client_wants_told_goes_before_what_heads_say(params: SamplingParams) -> None:
    engine = Engine([20, 21])
    tokens = await thought(params, engine)
    assert [token.states for token in tokens] == [None, None]
    asked = engine.asked[0]
    assert (asked.logprobs, asked.logprob_token_ids) == (params.logprobs, params.logprob_token_ids)
    if params.logprobs == 2:
        assert [set(token.detail) for token in tokens] == [{20, 10, 11}, {21, 10, 11}]


async def test_unjudged_thinking_and_engines_without_heads_say_nothing() -> None:
    for options in ({"judged": False}, {"state_ids": None}):
        engine = Engine([20])
        tokens = await thought(SamplingParams(), engine, **options)
        assert tokens[0].states is None
        assert engine.asked[0].logprob_token_ids is None


async def test_a_token_that_tells_nothing_still_has_its_log_probability() -> None:
    tokens = await thought(SamplingParams(), Engine([20], silent=True))
    assert (tokens[0].states, tokens[0].logprob, set(tokens[0].detail)) == (None, -0.1, {20})


def probe_on(engine: Engine, ids: StateIds | None = IDS) -> VllmProbe:
    form = MarkerTokens(open_ids=(1,), close_ids=(2,), close_text="</think>")
    return VllmProbe(engine, TOKENIZER, form, "request", {"priority": 3}, cache_salt="tenant", state_ids=ids)


async def test_a_probe_asks_for_the_price_of_a_token() -> None:
    engine = Engine([20, 21])
    probe = probe_on(engine)
    assert await probe.states([4, 5, 6]) == pytest.approx(SAID)
    assert await probe.states([4, 5]) == pytest.approx(SAID)
    assert probe.tokens == 2
    assert engine.prompts == [[4, 5, 6], [4, 5]]
    assert engine.request_ids == ["request-probe-0", "request-probe-1"]
    assert engine.closed == 2
    asked = engine.asked[0]
    assert (asked.max_tokens, asked.temperature, asked.logprobs) == (1, 0.0, None)
    assert asked.logprob_token_ids == IDS.all
    assert asked.output_kind is RequestOutputKind.FINAL_ONLY


async def test_a_probe_of_an_engine_without_heads_asks_nobody() -> None:
    engine = Engine([20])
    assert await probe_on(engine, None).states([4]) is None
    assert engine.asked == []


async def test_a_probe_that_is_told_nothing_counts_its_token() -> None:
    probe = probe_on(Engine([20], silent=True))
    assert await probe.states([4]) is None
    assert probe.tokens == 1
