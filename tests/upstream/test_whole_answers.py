"""Tier opaque: whole answers, judged when they are there."""

import asyncio
import json
from typing import Any

import openai
import pytest

from server.wire import Account
from tests.upstream.serving import QUESTION, Served, WordDm, serving
from tests.upstream.vendors import MODEL, Anthropic, Fault, OpenAI, Said, Vendor, in_turn, pieces

WRONG, RIGHT = Said("Four and seventeen. Hm.", "The answer is 22."), Said("Seventeen and four.", "The answer is 21.")
VENDORS = [OpenAI, Anthropic]
BELIEFS = {"22": 0.2, "21": 0.9}
RETHINK = {"mode": "rethink", "max_rethinks": 2}


def accounted(reply: dict[str, Any], vendor: Vendor) -> None:
    """Every token in exactly one count, every request in the bill."""
    drr, usage = reply["drr"], reply["usage"]
    Account.model_validate(drr)
    assert drr["cost"]["requests"] == len(vendor.bodies)
    assert drr["cost"]["completion_tokens"] == vendor.words_sent == usage["completion_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    if drr["thinking_tokens"] is not None:
        parts = [drr[f"{name}_tokens"] for name in ("thinking", "answer", "discarded", "probe")]
        assert sum(parts) == usage["completion_tokens"]
    cached = drr["cost"]["cached_prompt_tokens"] or 0
    due = (drr["cost"]["prompt_tokens_sent"] - cached) + 0.1 * cached + 10 * drr["cost"]["completion_tokens"]
    assert drr["cost"]["usd"] == pytest.approx(due / 1e6, rel=1e-3, abs=1e-8)


def content(reply: dict[str, Any]) -> Any:
    return reply["choices"][0]["message"]["content"]


def fates(reply: dict[str, Any]) -> list[str]:
    return [attempt["fate"] for attempt in reply["drr"]["attempt_details"]]


async def answered(served: Served, **fields: Any) -> dict[str, Any]:
    """A whole response, whose bill is checked."""
    served.vendor.words_sent = 0
    served.vendor.bodies.clear()
    response = await served.ask(**fields)
    assert response.status_code == 200, response.text
    reply: dict[str, Any] = response.json()
    accounted(reply, served.vendor)
    assert served.client.open == 0
    return reply


@pytest.mark.parametrize("kind", VENDORS)
async def test_a_rejected_answer_is_thrown_away_and_another_made(kind: type[Vendor]) -> None:
    dm = WordDm(BELIEFS)
    async with serving(kind(in_turn(WRONG, RIGHT)), dm=dm) as served:
        reply = await answered(served, drr=RETHINK)
        assert content(reply) == RIGHT.answer
        drr = reply["drr"]
        assert (drr["attempts"], drr["stop_cause"]) == (2, "natural")
        assert fates(reply) == ["rejected", "accepted"]
        assert [step["p_now"] for step in drr["steps"]] == [0.2, 0.9]
        assert [step["verdict"] for step in drr["steps"]] == ["rethink", "continue"]
        assert drr["discarded_tokens"] == len(pieces(WRONG.thinking)) + len(pieces(WRONG.answer))
        assert dm.seen == [(WRONG.answer,), (RIGHT.answer,)]  # the thinking is hidden


async def test_thinking_that_is_not_counted_apart_is_not_made_up() -> None:
    async with serving(Anthropic(in_turn(RIGHT)), dm=WordDm(BELIEFS)) as served:
        reply = await answered(served)
        assert reply["drr"]["thinking_tokens"] is None
        assert reply["drr"]["answer_tokens"] is None
        assert reply["usage"]["completion_tokens_details"]["reasoning_tokens"] is None
        assert reply["drr"]["cost"]["cached_prompt_tokens"] is None


async def test_who_believes_no_attempt_abstains() -> None:
    async with serving(OpenAI(in_turn(WRONG)), dm=WordDm(BELIEFS)) as served:
        reply = await answered(served, drr={**RETHINK, "on_exhausted": "abstain", "refusal": "I do not know."})
        message = reply["choices"][0]["message"]
        assert (message["content"], message["refusal"]) == (None, "I do not know.")
        assert reply["drr"]["stop_cause"] == "abstained"
        assert fates(reply) == ["rejected"] * 3
        assert reply["drr"]["answer_tokens"] == 0


@pytest.mark.parametrize(("exhausted", "said"), [("best", "23"), ("last", "24")])
async def test_the_best_or_the_last_answers_where_none_is_accepted(exhausted: str, said: str) -> None:
    attempts = [Said("Hm.", f"The answer is {number}.") for number in (22, 23, 24)]
    async with serving(OpenAI(in_turn(*attempts)), dm=WordDm({"22": 0.2, "23": 0.4, "24": 0.3})) as served:
        reply = await answered(served, drr={**RETHINK, "on_exhausted": exhausted})
        assert said in content(reply)
        assert reply["drr"]["stop_cause"] == "rethink_limit"
        assert fates(reply).count("answered") == 1


async def test_attempts_that_agree_outvote_one_that_is_believed_more() -> None:
    attempts = [Said("", answer) for answer in ("7", "21", "21", "8")]
    async with serving(OpenAI(in_turn(*attempts)), dm=WordDm({"7": 0.4, "21": 0.3, "8": 0.1})) as served:
        asked = {"mode": "rethink", "max_rethinks": 3, "on_exhausted": "vote", "accept": 0.9}
        assert content(await answered(served, drr=asked)) == "21"


async def test_of_several_attempts_at_once_one_that_is_believed_answers() -> None:
    vendor = OpenAI(in_turn(WRONG, WRONG, RIGHT))
    async with serving(vendor, dm=WordDm(BELIEFS)) as served:
        response = await served.ask(drr={**RETHINK, "parallel": 3}, max_completion_tokens=90)
        reply = response.json()
        assert content(reply) == RIGHT.answer
        assert len(vendor.bodies) == 3
        assert {body["max_completion_tokens"] for body in vendor.bodies} == {30}
        assert fates(reply).count("accepted") == 1
        assert set(fates(reply)) <= {"accepted", "rejected", "abandoned"}
        assert reply["drr"]["cost"]["requests"] == 3
        assert reply["drr"]["cost"]["completion_tokens"] == reply["usage"]["completion_tokens"]
    assert vendor.open == 0


@pytest.mark.parametrize("scorer", ["self_critique", "critique"])
async def test_the_reasoner_itself_can_be_asked(scorer: str) -> None:
    vendor = OpenAI(in_turn(WRONG, RIGHT))
    async with serving(vendor, scorer=scorer) as served:
        reply = await answered(served, drr=RETHINK)
        assert content(reply) == RIGHT.answer
        assert [step["p_now"] for step in reply["drr"]["steps"]] == [0.0, 1.0]
        assert reply["drr"]["judge"]["id"] == scorer
        assert len(vendor.bodies) == 4
        assert reply["drr"]["probe_tokens"] == 2 * len(pieces("Let me check. Yes."))
        efforts = [body.get("reasoning_effort") for body in vendor.bodies]
        assert efforts == ([None, "low"] * 2 if scorer == "self_critique" else [None] * 4)


async def test_a_later_attempt_thinks_harder_and_is_another() -> None:
    vendor = OpenAI(in_turn(WRONG))
    async with serving(vendor, dm=WordDm(BELIEFS)) as served:
        await answered(served, drr=RETHINK, reasoning_effort="low", seed=5)
        assert [body["reasoning_effort"] for body in vendor.bodies] == ["low", "medium", "high"]
        assert [body["seed"] for body in vendor.bodies] == [5, 6, 7]


async def test_all_attempts_share_the_limit_of_tokens() -> None:
    vendor = OpenAI(in_turn(WRONG))
    used = len(pieces(WRONG.thinking)) + len(pieces(WRONG.answer))
    async with serving(vendor, dm=WordDm(BELIEFS)) as served:
        reply = await answered(served, drr={"mode": "rethink", "max_rethinks": 9}, max_tokens=2 * used + 9)
        assert [body["max_completion_tokens"] for body in vendor.bodies] == [2 * used + 9, used + 9, 9]
        assert "max_tokens" not in vendor.bodies[0]
        assert reply["drr"]["stop_cause"] == "rethink_room"


async def test_a_tool_call_is_an_answer_that_nobody_judges() -> None:
    said = Said("I need the tool.", "", tool=("add", '{"a": 17, "b": 4}'))
    dm = WordDm(BELIEFS)
    tools = [{"type": "function", "function": {"name": "add", "parameters": {}}}]
    async with serving(OpenAI(in_turn(said)), dm=dm) as served:
        reply = await answered(served, drr=RETHINK, tools=tools)
        (choice,) = reply["choices"]
        assert choice["finish_reason"] == "tool_calls"
        assert choice["message"]["tool_calls"][0]["function"] == {"name": "add", "arguments": '{"a": 17, "b": 4}'}
        assert choice["message"]["content"] is None
        assert (reply["drr"]["stop_cause"], dm.seen) == ("tool_call", [])
        assert fates(reply) == ["unjudged"]


async def test_without_a_judge_the_upstream_is_handed_through() -> None:
    vendor = Anthropic(in_turn(RIGHT))
    async with serving(vendor) as served:
        reply = await answered(served, temperature=0.3, metadata={"a": "b"}, thinking={"type": "enabled"})
        assert (content(reply), reply["drr"]["stop_cause"], reply["drr"]["judge"]) == (RIGHT.answer, "off", None)
        assert vendor.bodies[0]["thinking"] == {"type": "enabled"}
        assert vendor.bodies[0]["temperature"] == 0.3
        assert vendor.keys[-1] == "Bearer sk-upstream"


async def test_shadow_judges_and_changes_nothing() -> None:
    async with serving(OpenAI(in_turn(WRONG)), dm=WordDm(BELIEFS)) as served:
        reply = await answered(served, drr={"mode": "shadow"})
        assert content(reply) == WRONG.answer
        assert [step["p_now"] for step in reply["drr"]["steps"]] == [0.2]


async def test_openais_client_streams_it() -> None:
    async with serving(OpenAI(in_turn(WRONG, RIGHT)), dm=WordDm(BELIEFS)) as served:
        client = openai.AsyncOpenAI(api_key="x", base_url=f"{served.url}/v1")
        stream = await client.chat.completions.create(
            model=f"{MODEL}:drr",
            messages=QUESTION,
            stream=True,
            stream_options={"include_usage": True},
            extra_body={"drr": RETHINK | {"mode": None}},
        )
        chunks: list[Any] = [chunk async for chunk in stream]
        await client.close()
        said = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert said == RIGHT.answer
        steps = [chunk.drr["step"]["p_now"] for chunk in chunks if "step" in (getattr(chunk, "drr", None) or {})]
        assert steps == [0.2, 0.9]
        account = next(chunk.drr for chunk in chunks if chunk.choices and getattr(chunk, "drr", None))
        assert account["cost"]["requests"] == 2
        usage = chunks[-1].usage
        assert usage is not None
        assert usage.completion_tokens == account["cost"]["completion_tokens"]


async def test_the_separator_stands_between_attempts_in_the_reasoning() -> None:
    async with serving(OpenAI(in_turn(WRONG, RIGHT)), dm=WordDm(BELIEFS)) as served:
        reply = await answered(served, drr={**RETHINK, "separator": "[again]"})
        assert reply["choices"][0]["message"]["reasoning"] == "[again]"


async def test_a_judge_that_fails_or_is_slow_ends_no_response() -> None:
    class Slow(WordDm):
        async def score(self, boundary: Any) -> Any:
            await asyncio.sleep(30)

    async with serving(OpenAI(in_turn(WRONG)), dm=Slow(BELIEFS)) as served:
        reply = await answered(served, drr=RETHINK)
        assert (content(reply), fates(reply)) == (WRONG.answer, ["unjudged"])
        assert reply["drr"]["judge"]["late"] == 1


async def test_what_the_upstream_refuses_is_told_with_its_field() -> None:
    async with serving(OpenAI(in_turn(RIGHT)), dm=WordDm(BELIEFS)) as served:
        for stream in (False, True):
            response = await served.ask(temperature=0.2, stream=stream)
            assert response.status_code == 400
            error = response.json()["error"]
            assert error["param"] == "temperature"
            assert "Only the default (1)" in error["message"]


async def test_models_tell_the_tier_and_other_paths_are_refused() -> None:
    async with serving(OpenAI(in_turn(RIGHT)), dm=WordDm(BELIEFS)) as served:
        models = (await served.http.get("/v1/models")).json()["data"]
        assert [model["id"] for model in models] == [MODEL, f"{MODEL}:drr", f"{MODEL}:full"]
        assert models[0]["drr"]["upstream"]["tier"] == "opaque"
        assert models[0]["drr"]["judge"] == "word-dm"
        assert models[0]["drr"]["auto"]["threshold"] is None
        assert models[0]["drr"]["thinking_again"]["accept"] == 0.5
        assert (await served.http.get(f"/v1/models/{MODEL}:full")).json()["parent"] == MODEL
        assert (await served.http.get("/v1/models/other")).status_code == 404
        elsewhere = await served.http.post("/v1/completions", json={})
        assert elsewhere.status_code == 404
        assert "/v1/chat/completions" in elsewhere.json()["error"]["message"]
        assert (await served.http.get("/health")).json() == {"status": "ok", "reasoner": "ok", "dm": "none"}
        assert (await served.http.get("/")).status_code == 200
        assert "drr_responses_total" in (await served.http.get("/metrics")).text
        served.pulse.state = "away"
        assert (await served.http.get("/ready")).status_code == 503


async def test_aliases_and_the_header_choose_the_mode() -> None:
    vendor = OpenAI(in_turn(WRONG, RIGHT))
    async with serving(vendor, dm=WordDm(BELIEFS)) as served:
        assert (await answered(served, model=f"{MODEL}:full"))["drr"]["settings"]["mode"] == "off"
        headers = {"X-DRR": json.dumps(RETHINK)}
        body = {"model": MODEL, "messages": [{"role": "user", "content": "And 4 + 17?"}]}
        response = await served.http.post("/v1/chat/completions", json=body, headers=headers)
        assert response.json()["drr"]["attempts"] == 2
        assert "attempts=2" in response.headers["x-drr-outcome"]
        both = await served.http.post("/v1/chat/completions", json={**body, "drr": {}}, headers=headers)
        assert both.json()["error"]["param"] == "drr"
        wrong = {"X-DRR": '{"threshold": 0.5}'}
        refused = await served.http.post("/v1/chat/completions", json=body, headers=wrong)
        assert refused.json()["error"]["param"] == "X-DRR.threshold"
        assert (await served.ask(model="other")).status_code == 404


async def test_the_door_wants_a_key() -> None:
    async with serving(OpenAI(in_turn(RIGHT)), keys=("sk-ours",)) as served:
        assert (await served.ask()).status_code == 401
        served.http.headers["authorization"] = "Bearer sk-ours"
        assert (await served.ask()).status_code == 200


async def test_no_usage_is_estimated_and_said_to_be() -> None:
    vendor = OpenAI(in_turn(RIGHT), always=Fault(no_usage=True))
    async with serving(vendor, dm=WordDm(BELIEFS)) as served:
        reply = (await served.ask(drr=RETHINK)).json()
        assert content(reply) == RIGHT.answer
        assert reply["drr"]["cost"]["estimated_requests"] == 1
        assert reply["drr"]["cost"]["completion_tokens"] == len(pieces(RIGHT.answer))  # what could be seen
