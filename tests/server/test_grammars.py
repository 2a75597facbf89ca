"""Grammars are found out to be bad before anything is thought."""

from collections.abc import AsyncGenerator
from typing import Any

import pytest
from vllm.outputs import CompletionOutput, RequestOutput
from vllm.sampling_params import StructuredOutputsParams

from server import grammars
from server.engine import ThinkingEngine
from server.vllm_api import SamplingParams, VLLMValidationError
from tests.server.test_engine import PROMPT, BareEngine, Requests, engine_with, params_of, plan


class Compiling(Requests):
    """An engine that cannot compile what it is asked to, or can."""

    def __init__(self, *, compiles: bool) -> None:
        super().__init__()
        self.compiles = compiles

    async def generate(
        self, engine: Any, prompt: Any, params: SamplingParams, request_id: str, **options: Any
    ) -> AsyncGenerator[RequestOutput, None]:
        if request_id.endswith("-grammar") and not self.compiles:
            self.seen.append((dict(prompt), params, request_id))
            completion = CompletionOutput(0, "", [], None, None, finish_reason="error")
            yield RequestOutput(request_id, None, [0], None, [completion], True)
            return
        async for output in super().generate(engine, prompt, params, request_id, **options):
            yield output


def engine_that(
    compiles: bool, backend: str, monkeypatch: pytest.MonkeyPatch, *, auto: bool = False
) -> tuple[ThinkingEngine, Compiling]:
    requests = Compiling(compiles=compiles)
    engine = engine_with(requests, monkeypatch)
    monkeypatch.setattr(BareEngine, "_check", ThinkingEngine._check)

    class Config:
        speculative_config = structured_outputs_config = None

    engine.vllm_config = Config()  # type: ignore[assignment]

    def verify(self: SamplingParams, *_: Any) -> None:
        if self.temperature == 2.0:
            raise VLLMValidationError("too hot", parameter="temperature")
        if self.structured_outputs is not None:
            self.structured_outputs._backend, self.structured_outputs._backend_was_auto = backend, auto

    monkeypatch.setattr(SamplingParams, "verify", verify)
    return engine, requests


async def answered(engine: ThinkingEngine, **fields: Any) -> list[RequestOutput]:
    params = params_of(plan(engine))
    for name, value in fields.items():
        setattr(params, name, value)
    return [output async for output in engine.generate({"prompt_token_ids": PROMPT}, params, "request")]


async def test_what_the_engine_cannot_compile_is_refused_before_the_thinking(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, requests = engine_that(False, "outlines", monkeypatch)
    with pytest.raises(VLLMValidationError, match="Grammar error"):
        await answered(engine, structured_outputs=StructuredOutputsParams(regex="a"))
    assert [request_id for _, _, request_id in requests.seen] == ["request-grammar"]
    assert engine._admitted == set()


@pytest.mark.parametrize(
    ("backend", "auto", "trials"),
    [
        ("outlines", False, 1),
        ("lm-format-enforcer", False, 1),
        ("xgrammar", False, 0),
        ("guidance", True, 1),
        ("xgrammar", True, 1),
    ],
)
async def test_the_engine_is_asked_where_nothing_else_can_tell(
    backend: str, auto: bool, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine, requests = engine_that(True, backend, monkeypatch, auto=auto)
    assert await answered(engine, structured_outputs=StructuredOutputsParams(regex="a"))
    asked = [request_id for _, _, request_id in requests.seen]
    assert len([request_id for request_id in asked if request_id.endswith("-grammar")]) == trials
    assert len(asked) > trials


async def test_all_that_a_whole_response_needs_is_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, requests = engine_that(True, "xgrammar", monkeypatch)
    with pytest.raises(VLLMValidationError, match="too hot"):
        await answered(engine, temperature=2.0)
    assert requests.seen == []


async def test_an_engine_that_fails_later_has_compiled_it() -> None:
    async def outputs(*kinds: tuple[list[int], str | None]) -> AsyncGenerator[RequestOutput, None]:
        for ids, reason in kinds:
            completion = CompletionOutput(0, "", ids, None, None, finish_reason=reason)
            yield RequestOutput("r", None, [0], None, [completion], reason is not None)

    found = [output async for output in grammars.compiled(outputs(([1], None), ([], "error")))]
    assert len(found) == 2
    with pytest.raises(VLLMValidationError):
        await anext(grammars.compiled(outputs(([], "error"))))
