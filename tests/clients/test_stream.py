"""The streaming client, against a server that sends every kind of chunk."""

import json
from typing import Any

from fastapi import FastAPI
from fastapi.responses import PlainTextResponse
from rich.console import Console

from clients.stream import ask
from tests.local_http import served

STEP = {"index": 0, "p_now": 0.95, "p_later": 0.97, "verdict": "stop"}
ACCOUNT = {"stop_cause": "sure", "thinking_tokens": 3, "discarded_tokens": 2, "steps": [STEP]}


def chunk(*choices: dict[str, Any], **more: Any) -> str:
    deltas = [{"index": 0, "delta": delta, "finish_reason": None} for delta in choices]
    body = {"id": "c", "object": "chat.completion.chunk", "created": 5, "model": "m", "choices": deltas, **more}
    return f"data: {json.dumps(body)}\n\n"


async def shown(*chunks: str) -> str:
    """What the client prints of a stream."""
    app = FastAPI()

    @app.post("/v1/chat/completions")
    async def answer() -> PlainTextResponse:
        return PlainTextResponse("".join([*chunks, "data: [DONE]\n\n"]), media_type="text/event-stream")

    console = Console(width=200)
    with console.capture() as printed:
        async with served(app) as url:
            await ask(f"{url}/v1", "m", "?", console)
    return printed.get()


async def test_chunks_without_choices_tell_of_steps_and_of_the_outcome() -> None:
    text = await shown(
        chunk({"role": "assistant", "content": ""}),
        chunk({"reasoning": "12 + 24"}),
        chunk(drr={"step": STEP}),
        chunk({"content": " = 36"}),
        chunk(drr=ACCOUNT),
    )
    assert text.startswith("12 + 24 = 36\n")
    assert "sure: 3 thinking tokens, 2 discarded, 1 steps judged" in text
    assert "step 0: p_now 0.95, p_later 0.97, stop" in text


async def test_the_account_on_the_last_chunk_of_the_answer() -> None:
    text = await shown(chunk({"content": "36"}), chunk({}, drr=ACCOUNT), chunk(drr={"step": STEP}))
    assert "sure: 3 thinking tokens" in text, "a step alone does not take its place"


async def test_without_an_account_only_the_answer_is_shown() -> None:
    text = await shown(chunk({"content": "36"}))
    assert text.startswith("36\nfirst delta after")
