"""Spare token ids, through which heads are read: nobody asks for them, and nobody is shown them."""

import math
from collections.abc import AsyncGenerator
from types import SimpleNamespace
from typing import Any

import pytest
from vllm.logprobs import Logprob
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import SamplingParams
from vllm.v1.engine.async_llm import AsyncLLM

from drr.engine.state_ids import StateIds
from drr.judge.scorers.state import StateScorer
from server.spared import check_params, shows_spare, without_spare
from server.vllm_api import VLLMValidationError
from tests.judge.test_head import head_of
from tests.server.test_engine import ANSWER, PROMPT, THOUGHT, Requests, engine_with, params_of, plan

IDS = StateIds(900, (901, 902))
VOCABULARY = 1000


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("allowed_token_ids", [5, 902]),
        ("logit_bias", {7: 1.0, 902: 50.0}),
        ("logprob_token_ids", [902]),
    ],
)
def test_whoever_wants_something_of_a_spare_id_is_told_the_field(name: str, value: Any) -> None:
    with pytest.raises(VLLMValidationError) as caught:
        check_params(SamplingParams(**{name: value}), IDS)
    assert (caught.value.parameter, caught.value.value) == (name, 902)
    assert str(caught.value).startswith(f"{name}: 902 is the id of no token")


@pytest.mark.parametrize(
    "asked", [{}, {"allowed_token_ids": [899]}, {"logit_bias": {903: 1.0}}, {"logprob_token_ids": [1]}]
)
def test_other_ids_are_anybodys(asked: dict[str, Any]) -> None:
    check_params(SamplingParams(**asked), IDS)


@pytest.mark.parametrize("name", ["logprobs", "prompt_logprobs"])
@pytest.mark.parametrize(
    ("count", "shows"), [(None, False), (0, False), (20, False), (997, False), (998, True), (1000, True), (-1, True)]
)
def test_only_the_widest_requests_would_show_a_spare_id(name: str, count: int | None, shows: bool) -> None:
    assert shows_spare(SamplingParams(**{name: count}), IDS, VOCABULARY) is shows


def whole_vocabulary() -> dict[int, Logprob]:
    return {token: Logprob(-5.0) for token in (1, 2)} | {token: Logprob(-400.0) for token in IDS.all}


async def one_output(**_: Any) -> AsyncGenerator[RequestOutput, None]:
    done: Any = CompletionOutput(0, "a", [1], None, [whole_vocabulary()], finish_reason="stop")
    yield RequestOutput("request", None, [1, 2], [None, whole_vocabulary()], [done], finished=True)


@pytest.mark.parametrize("params", [SamplingParams(logprobs=-1), SamplingParams(prompt_logprobs=-1, logprobs=2)])
async def test_spare_ids_are_left_out_of_what_is_told(params: SamplingParams) -> None:
    (output,) = [output async for output in without_spare(one_output(), IDS, params)]
    assert output.prompt_logprobs is not None
    assert [told and set(told) for told in output.prompt_logprobs] == [None, {1, 2}]
    assert output.outputs[0].logprobs is not None
    assert [set(told) for told in output.outputs[0].logprobs] == [{1, 2}]


async def test_the_loops_own_requests_still_read_them() -> None:
    """One that shows a client the whole vocabulary of its prompt, and tells the loop what heads say."""
    params = SamplingParams(prompt_logprobs=-1, logprob_token_ids=IDS.all)
    (output,) = [output async for output in without_spare(one_output(), IDS, params)]
    assert output.prompt_logprobs is not None
    assert set(output.prompt_logprobs[1] or ()) == {1, 2}
    assert output.outputs[0].logprobs is not None
    assert IDS.read(output.outputs[0].logprobs[0]) == (0.0, 0.0)


class Judging(Requests):
    """Plays a Reasoner whose engine runs a head: it tells of every id that is named."""

    async def generate(
        self, engine: Any, prompt: Any, params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        self.seen.append((dict(prompt), params, request_id))
        ids = ANSWER if list(prompt["prompt_token_ids"]) != PROMPT else THOUGHT
        prompt_told: Any = None if params.prompt_logprobs is None else [None, whole_vocabulary()]
        for place, token in enumerate(ids[: params.max_tokens]):
            told = {token: Logprob(-0.1)}
            told |= {named: Logprob(-400.0 + (named - 900)) for named in params.logprob_token_ids or ()}
            told |= whole_vocabulary() if params.logprobs == -1 else {}
            wants = params.logprobs is not None or params.logprob_token_ids is not None
            reason = "stop" if place == len(ids) - 1 else None
            done: Any = CompletionOutput(0, "x", [token], None, [told] if wants else None, finish_reason=reason)
            yield RequestOutput(request_id, None, [1, 2], prompt_told, [done], reason is not None)


@pytest.mark.parametrize("asked", [{}, {"logprobs": 0}, {"logprobs": -1}, {"logprob_token_ids": [7, 8]}])
@pytest.mark.parametrize("prompt_logprobs", [None, -1])
async def test_no_response_shows_a_spare_id_and_every_boundary_is_judged(
    asked: dict[str, Any], prompt_logprobs: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    requests = Judging()
    engine = engine_with(requests, monkeypatch)
    assert engine.drr is not None
    engine.model_config = SimpleNamespace(max_model_len=2048, get_vocab_size=lambda: VOCABULARY)
    engine.drr.state_ids = IDS
    engine.drr.scorers["logprob"] = StateScorer("head", head_of("head"))
    own = plan(engine, threshold=1.0)
    params = params_of(own)
    for name, value in {**asked, "prompt_logprobs": prompt_logprobs}.items():
        setattr(params, name, value)
    outputs = [output async for output in engine.generate({"prompt_token_ids": PROMPT}, params, "request")]
    shown = [told for output in outputs for told in (output.outputs[0].logprobs or ()) if told]
    shown += [told for output in outputs for told in (output.prompt_logprobs or ()) if told]
    assert not {token for told in shown for token in told} & set(IDS.all)
    if asked:
        assert shown
    outcome = own.account.outcomes[0]
    assert (outcome.failed, outcome.late) == (0, 0)
    expected = head_of("head").score((1.0, 2.0), None)
    assert not math.isnan(expected.p_now)
    assert len(outcome.steps) == 3
    assert None not in [step.p_now for step in outcome.steps]
    inline = asked.get("logprobs") != -1
    assert outcome.probe_tokens == (0 if inline else 3)


async def test_a_request_for_a_spare_id_never_reaches_the_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Judging()
    engine = engine_with(requests, monkeypatch)
    assert engine.drr is not None
    engine.drr.state_ids = IDS
    for asked in (SamplingParams(allowed_token_ids=[901]), params_of(plan(engine))):
        asked.allowed_token_ids = [901]
        with pytest.raises(VLLMValidationError, match="allowed_token_ids: 901"):
            engine.generate({"prompt_token_ids": PROMPT}, asked, "request")
    assert requests.seen == []


def test_the_engine_of_the_tests_is_vllms() -> None:
    assert hasattr(AsyncLLM, "generate")
