"""How many sequences one request may have made, however it asks for them."""

import asyncio
from collections.abc import AsyncGenerator
from typing import Any

import pytest

from server.admission.branches import BRANCHES, Branches
from server.vllm_api import AsyncLLM, RequestOutput, SamplingParams, VLLMValidationError
from tests.server.admission.asgi import Client, door, guarded
from tests.server.test_engine import PROMPT, Requests, engine_with, plan, run


def test_prompts_choices_and_attempts_all_count() -> None:
    for before, asked, param in (
        (0, (9, 1), "n"),
        (0, (3, 3), "n"),
        (0, (1, 9), "drr.max_rethinks"),
        (8, (1, 1), "prompt"),
    ):
        branches = Branches(8)
        for _ in range(before):
            branches.take(1)
        with pytest.raises(VLLMValidationError, match=r"at most 8 sequences .*--drr-max-branches") as caught:
            branches.take(*asked)
        assert caught.value.parameter == param
    Branches(8).take(2, 4)


async def test_every_request_has_its_own() -> None:
    taken = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        branches = BRANCHES.get()
        assert branches is not None
        taken.append(await asyncio.create_task(asyncio.to_thread(branches.take, 256)))
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"done"})

    guard, _ = guarded(app, door())
    for _ in range(2):
        assert (await Client(guard).done()).status == 200
    assert taken == [256, 256]
    assert BRANCHES.get() is None


async def test_the_engine_refuses_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Requests()
    engine = engine_with(requests, monkeypatch)
    token = BRANCHES.set(Branches(8))
    try:
        with pytest.raises(VLLMValidationError, match="not 9 attempts"):
            await run(engine, plan(engine, mode="rethink", max_rethinks=8))
        assert requests.seen == []
        BRANCHES.set(Branches(9))
        assert (await run(engine, plan(engine, mode="rethink", max_rethinks=8)))[-1].finished
    finally:
        BRANCHES.reset(token)


async def test_beams_are_asked_for_again_and_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """One token of every beam at a time: what has ended counts no longer."""

    token_of_a_beam = RequestOutput("beam", None, None, None, [], False)

    async def one(*_: Any, **__: Any) -> AsyncGenerator[RequestOutput, None]:
        yield token_of_a_beam

    engine = engine_with(Requests(), monkeypatch)
    monkeypatch.setattr(AsyncLLM, "generate", one)
    token = BRANCHES.set(Branches(2))
    try:
        for step in range(5):
            streams = [
                engine.generate({"prompt_token_ids": PROMPT}, SamplingParams(max_tokens=1), f"{step}-{beam}")
                for beam in range(2)
            ]
            assert [[output async for output in stream] for stream in streams] == [[token_of_a_beam]] * 2
        held = [engine.generate({"prompt_token_ids": PROMPT}, SamplingParams(max_tokens=1), "a") for _ in range(2)]
        with pytest.raises(VLLMValidationError, match="more prompts"):
            engine.generate({"prompt_token_ids": PROMPT}, SamplingParams(max_tokens=1), "b")
        for stream in held:
            await stream.aclose()
    finally:
        BRANCHES.reset(token)
