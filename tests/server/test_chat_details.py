"""Chat completions beside the usual: several choices, log-probabilities, and the name of the reasoning."""

from typing import Any

import pytest

from tests.server.played_app import THOUGHT, PlayedServer, played_server

PATH = "/v1/chat/completions"
ASK: dict[str, Any] = {"messages": [{"role": "user", "content": "2 + 3?"}]}
STOP = {"threshold": 0.9}
RETHINK = {"mode": "rethink", "accept": 0.9, "max_rethinks": 2}
ABSTAIN = {**RETHINK, "max_rethinks": 1, "on_exhausted": "abstain"}


@pytest.fixture
async def served(monkeypatch: pytest.MonkeyPatch) -> PlayedServer:
    return await played_server(monkeypatch)


def choices_of(drr: dict[str, Any]) -> list[dict[str, Any]]:
    return drr.get("choices") or [drr]


@pytest.mark.parametrize("drr", [STOP, RETHINK, {**RETHINK, "parallel": 2}, ABSTAIN])
@pytest.mark.parametrize("n", [1, 3])
async def test_log_probabilities_are_those_of_the_tokens_that_are_shown(
    served: PlayedServer, drr: dict[str, Any], n: int
) -> None:
    asked = {**ASK, "drr": drr, "n": n, "logprobs": True, "top_logprobs": 0, "seed": 1}
    scores = [0.1, 0.95] if drr is STOP else [0.2]
    served.play(THOUGHT, scores=scores)
    body = (await served.post(PATH, asked)).json()
    assert len(body["choices"]) == len(choices_of(body["drr"])) == n
    assert body["usage"]["completion_tokens"] == served.played.generated
    total = 0
    for choice, own in zip(body["choices"], choices_of(body["drr"]), strict=True):
        entries = choice["logprobs"]["content"] if choice["logprobs"] else []
        text = "".join(entry["token"] for entry in entries)
        total += sum(own[f"{name}_tokens"] for name in ("thinking", "answer", "discarded", "probe"))
        if drr is STOP:
            assert len(entries) == own["thinking_tokens"] + own["answer_tokens"]
            assert text.startswith(choice["message"]["reasoning"])
        assert all(entry["logprob"] > -9999 for entry in entries), "put-in tokens were never sampled"
    assert total == body["usage"]["completion_tokens"]
    served.play(THOUGHT, scores=scores)
    streamed: list[list[Any]] = [[] for _ in range(n)]
    shown = [""] * n
    for _, chunk in await served.events(PATH, asked):
        for choice in chunk["choices"] if isinstance(chunk, dict) else ():
            streamed[choice["index"]] += (choice.get("logprobs") or {}).get("content") or []
            shown[choice["index"]] += choice["delta"].get("reasoning") or ""
    for choice, entries, reasoning in zip(body["choices"], streamed, shown, strict=True):
        whole = choice["logprobs"]["content"] if choice["logprobs"] else []
        assert [entry["token"] for entry in entries] == [entry["token"] for entry in whole]
        assert reasoning == (choice["message"]["reasoning"] or "")


@pytest.mark.parametrize(
    ("key", "names"),
    [
        ("reasoning", {"reasoning"}),
        ("reasoning_content", {"reasoning_content"}),
        ("both", {"reasoning", "reasoning_content"}),
    ],
)
async def test_reasoning_can_be_had_under_either_name(
    monkeypatch: pytest.MonkeyPatch, key: str, names: set[str]
) -> None:
    served = await played_server(monkeypatch, "--drr-reasoning-key", key)
    said = 'so: "reasoning": 1.\n\n'
    served.play(f'{said}</think>\n\nThe "reasoning": 5.', scores=[0.1])
    message = (await served.post(PATH, ASK)).json()["choices"][0]["message"]
    told = {name for name in ("reasoning", "reasoning_content") if message.get(name) is not None}
    assert told == names
    assert {message[name] for name in names} == {said}
    served.play(f'{said}</think>\n\nThe "reasoning": 5.', scores=[0.1])
    shown: dict[str, str] = {}
    content = ""
    for _, chunk in await served.events(PATH, ASK):
        for choice in chunk["choices"] if isinstance(chunk, dict) else ():
            content += choice["delta"].get("content") or ""
            for name in ("reasoning", "reasoning_content"):
                if choice["delta"].get(name):
                    shown[name] = shown.get(name, "") + choice["delta"][name]
    assert shown == dict.fromkeys(names, said)
    assert content == '\n\nThe "reasoning": 5.'
    served.play(f"{said}</think>\n\nThe 5.", scores=[0.1])
    body = (await served.post("/v1/messages", {**ASK, "max_tokens": 900})).json()
    assert body["content"][0]["thinking"] == said, "Anthropic has a name of its own"
