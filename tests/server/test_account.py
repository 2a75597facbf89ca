"""One account: every generated token is in exactly one place, and every word of it says what happened."""

import json
from typing import Any

import httpx
import pytest

from server.wire import Account, Accounts, StepChunk
from tests.server.running import MODEL, QUESTION, Server

HARD = [{"role": "user", "content": "Use the numbers 3, 7, 11 and 25 with + - * / to make 54."}]
EASY = [
    {
        "role": "user",
        "content": "Tom has 12 apples. He buys 3 bags of 8 apples each. How many apples does Tom have now?",
    }
]
CASES: dict[str, dict[str, Any]] = {
    "stop": {"messages": EASY, "temperature": 0},
    "full": {"messages": EASY, "temperature": 0, "drr": {"mode": "off"}},
    "steps of full": {"messages": EASY, "temperature": 0, "drr": {"mode": "off", "report": "steps"}},
    "shadow": {"messages": EASY, "temperature": 0, "drr": {"mode": "shadow"}},
    "rethink": {"messages": EASY, "drr": {"mode": "rethink", "accept": 1.0, "max_rethinks": 2}},
    "in context": {"messages": EASY, "drr": {"mode": "rethink", "accept": 1.0, "rethink": "in_context"}},
    "parallel": {"messages": HARD, "drr": {"mode": "rethink", "parallel": 4}},
    "abstain": {"messages": HARD, "max_tokens": 200, "drr": {"on_exhausted": "abstain", "accept": 1.0}},
    "nudge": {"messages": EASY, "drr": {"threshold": 1.0, "hopeless": 0.0, "nudge": 2, "nudge_below": 1.0}},
    "probes": {"messages": EASY, "drr": {"scorer": "confidence", "threshold": 0.5}},
    "choices": {"messages": HARD, "n": 3, "max_tokens": 120},
    "content": {"messages": EASY, "drr": {"thinking_in": "content"}},
    "budget": {"messages": EASY, "drr": {"max_thinking_tokens": 5}},
    "cut": {"messages": HARD, "max_tokens": 30, "drr": {"mode": "off"}},
    "stop text": {"messages": EASY, "stop": ["36"]},
    "no thinking": {"messages": EASY, "chat_template_kwargs": {"enable_thinking": False}},
}


def post(server: Server, **fields: Any) -> httpx.Response:
    body = {"model": MODEL, "temperature": 0.8, "seed": 5, "return_token_ids": True, **fields}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=120)
    assert response.status_code == 200, response.text
    return response


def chunks_of(response: httpx.Response) -> list[dict[str, Any]]:
    lines = [line.removeprefix("data: ") for line in response.text.splitlines() if line.startswith("data: {")]
    return [json.loads(line) for line in lines]


def choices_of(drr: dict[str, Any]) -> list[dict[str, Any]]:
    return drr.get("choices") or [drr]


def check(drr: dict[str, Any], usage: dict[str, Any]) -> None:
    """Recount."""
    choices = choices_of(drr)
    for own in choices:
        for attempts in [own.get("attempt_details") or []]:
            assert sum(attempt["discarded_tokens"] for attempt in attempts) in (0, own["discarded_tokens"])
            if attempts:
                generated = own["thinking_tokens"] + own["answer_tokens"] + own["discarded_tokens"]
                assert sum(attempt["generated_tokens"] for attempt in attempts) == generated
    total = {
        name: sum(own[f"{name}_tokens"] for own in choices) for name in ("thinking", "answer", "discarded", "probe")
    }
    assert usage["completion_tokens"] == sum(total.values())
    shown = total["thinking"] if drr["settings"]["thinking_in"] == "reasoning" else 0
    details = usage["completion_tokens_details"]
    assert details["reasoning_tokens"] == shown + total["discarded"] + total["probe"]
    assert (details["discarded_tokens"], details["probe_tokens"]) == (total["discarded"], total["probe"])


@pytest.mark.parametrize("case", CASES)
def test_the_account_adds_up_whole_and_streamed(server: Server, case: str) -> None:
    response = post(server, **CASES[case])
    body = response.json()
    (Accounts if "choices" in body["drr"] else Account).model_validate(body["drr"])
    check(body["drr"], body["usage"])
    for choice, own in zip(body["choices"], choices_of(body["drr"]), strict=True):
        if own["attempts"] == 1 and own["stop_cause"] != "abstained":
            assert len(choice["token_ids"]) == own["thinking_tokens"] + own["answer_tokens"]
    options = {"include_usage": True, "continuous_usage_stats": True}
    chunks = chunks_of(post(server, **CASES[case], stream=True, stream_options=options))
    counted = [chunk["usage"] for chunk in chunks if chunk.get("usage")]
    assert [own["completion_tokens"] for own in counted] == sorted(own["completion_tokens"] for own in counted)
    assert counted[-1]["total_tokens"] == counted[-1]["prompt_tokens"] + counted[-1]["completion_tokens"]
    ends = [chunk for chunk in chunks if chunk["choices"] and chunk["choices"][0].get("finish_reason")]
    summary = ends[-1]["drr"]
    check(summary, counted[-1])
    for end in ends:
        choice = end["choices"][0]
        own = choices_of(summary)[choice["index"]]
        assert choice["delta"]["drr"]["stop_cause"] == own["stop_cause"]
    for chunk in chunks:
        if not chunk["choices"] and "drr" in chunk:
            StepChunk.model_validate(chunk["drr"])
    causes = [own["stop_cause"] for own in choices_of(body["drr"])]
    assert [own["stop_cause"] for own in choices_of(summary)] == causes
    messages = [choice["message"] for choice in body["choices"]]
    for name in ("content", "reasoning", "refusal"):
        streamed = [""] * len(messages)
        for chunk in chunks:
            for choice in chunk["choices"]:
                streamed[choice["index"]] += choice["delta"].get(name) or ""
        assert streamed == [message[name] or "" for message in messages], name


@pytest.mark.parametrize(
    ("case", "cause"),
    [
        ("stop", "sure"),
        ("full", "off"),
        ("shadow", "natural"),
        ("abstain", "abstained"),
        ("budget", "max_thinking_tokens"),
        ("cut", "max_tokens"),
        ("no thinking", "no_thinking"),
    ],
)
def test_every_cause_has_its_word(server: Server, case: str, cause: str) -> None:
    assert post(server, **CASES[case]).json()["drr"]["stop_cause"] == cause


def test_a_limit_is_called_as_the_field_that_set_it(server: Server) -> None:
    for asked, cause in (
        ({"thinking_token_budget": 7}, "thinking_token_budget"),
        ({"thinking_token_budget": 9, "drr": {"max_thinking_tokens": 7}}, "max_thinking_tokens"),
        ({"max_tokens": 12}, "answer_reserve"),
        ({"drr": {"mode": "shadow", "max_steps": 1}}, "max_steps"),
        ({"drr": {"mode": "off", "max_steps": 1}}, "max_steps"),
        ({"drr": {"hopeless": 0.99, "threshold": 1.0}}, "hopeless"),
        ({"drr": {"min_gain": 1.0, "hopeless": 0.0, "threshold": 1.0}}, "no_gain"),
        ({"drr": {"mode": "rethink", "max_rethinks": 1, "accept": 1.0}}, "rethink_limit"),
        ({"max_tokens": 40, "drr": {"mode": "rethink", "max_rethinks": 9, "accept": 1.0}}, "rethink_room"),
    ):
        drr = post(server, messages=EASY, **asked).json()["drr"]
        assert drr["stop_cause"] == cause, asked
        if asked.get("thinking_token_budget"):
            assert drr["thinking_tokens"] == 7
            assert drr["settings"]["thinking_token_budget"] == asked["thinking_token_budget"]


def test_hardly_more_is_generated_than_a_budget_allows(server: Server) -> None:
    drr = post(server, messages=EASY, temperature=0, drr={"max_thinking_tokens": 5}).json()["drr"]
    assert drr["thinking_tokens"] == 5
    assert drr["discarded_tokens"] <= 1, "one token more might have been the end of the thinking"


@pytest.mark.parametrize("tokens", range(2, 15))
def test_half_of_a_small_max_tokens_is_thought_with(server: Server, tokens: int) -> None:
    drr = post(server, messages=EASY, temperature=0, max_tokens=tokens).json()["drr"]
    assert drr["thinking_tokens"] == tokens - tokens // 2
    assert drr["settings"]["answer_tokens"] == 256


def test_who_judged_is_named(server: Server) -> None:
    by_dm = post(server, messages=EASY).json()["drr"]["judge"]
    by_probe = post(server, messages=EASY, drr={"scorer": "stated"}).json()["drr"]["judge"]
    assert (by_dm["scorer"], by_dm["id"]) == ("dm", "drr-reference-dm-head")
    assert (by_probe["scorer"], by_probe["id"]) == ("stated", "stated")
    assert post(server, messages=EASY, drr={"mode": "off"}).json()["drr"]["judge"] is None


def test_the_header_has_the_short_account(server: Server) -> None:
    response = post(server, messages=EASY, temperature=0.8, drr={"max_lost_correct": 0.05})
    drr = response.json()["drr"]
    assert response.headers["x-drr-outcome"] == (
        f"cause={drr['stop_cause']}, thinking={drr['thinking_tokens']}, answer={drr['answer_tokens']}, "
        f'discarded={drr["discarded_tokens"]}, probe=0, attempts=1, mode=auto, judge="drr-reference-dm-head", '
        f"risk=0.05, holds=?{int(drr['risk']['holds'])}"
    )
    several = post(server, messages=EASY, n=2, drr={"max_steps": 1, "threshold": 1.0}).headers["x-drr-outcome"]
    assert several.startswith("cause=(max_steps max_steps), ")
    streamed = post(server, messages=EASY, stream=True).headers["x-drr-outcome"]
    assert streamed == 'mode=auto, judge="drr-reference-dm-head", account=last-chunk'
    named = httpx.post(
        f"{server.url}/v1/chat/completions",
        json={"model": MODEL, "messages": EASY},
        headers={"Origin": "http://a.example"},
        timeout=60,
    )
    assert "x-drr-outcome" in named.headers["access-control-expose-headers"]


def test_an_abstention_is_a_refusal_in_any_language(server: Server) -> None:
    drr = {"on_exhausted": "abstain", "accept": 1.0, "threshold": 1.0, "refusal": "Das weiß ich nicht. 🤷"}
    form = {"structured_outputs": {"regex": "[0-9]+"}}
    for beside in ({}, form, {"logprobs": True}):
        body = post(server, messages=HARD, max_tokens=100, drr=drr, **beside).json()
        (choice,) = body["choices"]
        message = choice["message"]
        assert (message["content"], message["refusal"]) == (None, drr["refusal"])
        assert choice["finish_reason"] == "stop"
        assert body["drr"]["answer_tokens"] == body["drr"]["thinking_tokens"] == 0
        assert {attempt["fate"] for attempt in body["drr"]["attempt_details"]} == {"rejected"}
        chunks = chunks_of(post(server, messages=HARD, max_tokens=100, drr=drr, stream=True, **beside))
        said = "".join(own["delta"].get("refusal") or "" for chunk in chunks for own in chunk["choices"])
        content = "".join(own["delta"].get("content") or "" for chunk in chunks for own in chunk["choices"])
        assert (said, content) == (drr["refusal"], "")


def test_a_separator_in_any_language(server: Server) -> None:
    drr = {"mode": "rethink", "accept": 1.0, "max_rethinks": 1, "separator": "\n— noch einmal —\n"}
    message = post(server, messages=EASY, drr=drr).json()["choices"][0]["message"]
    assert message["reasoning"].count("— noch einmal —") == 1


def test_the_same_seed_is_the_same_answer(server: Server) -> None:
    asked = {"messages": HARD, "seed": 7, "drr": {"mode": "rethink", "max_rethinks": 3}}
    for drr in ({}, {"parallel": 4}, {"scorer": "random"}, {"on_exhausted": "abstain"}):
        texts = {
            json.dumps(post(server, **{**asked, "drr": {**asked["drr"], **drr}}).json()["choices"][0]["message"])  # type: ignore[dict-item]
            for _ in range(4)
        }
        assert len(texts) == 1, drr


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ([("X-DRR", "null")], 200),
        ([("X-DRR", '{"mode": null}')], 200),
        ([("X-DRR", "{}"), ("X-DRR", "{}")], 400),
        ([("X-DRR", "")], 400),
        ([("X-DRR", '{"mode":')], 400),
        ([("X-DRR", '["mode"]')], 400),
        ([("X-DRR", '{"mode": "off", "threshold": 0.5}')], 400),
    ],
)
def test_a_header_is_an_object_or_is_refused(server: Server, headers: Any, status: int) -> None:
    body = {"model": MODEL, "messages": EASY, "max_tokens": 8}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body, headers=headers, timeout=60)
    assert response.status_code == status, response.text
    if status == 400:
        assert response.json()["error"]["param"].startswith("X-DRR")


def test_an_argument_of_the_sdk_that_was_sent_as_a_field_is_told(server: Server) -> None:
    body = {"model": MODEL, "messages": [{"role": "user", "content": QUESTION}], "extra_body": {"drr": {}}}
    response = httpx.post(f"{server.url}/v1/chat/completions", json=body)
    assert (response.status_code, response.json()["error"]["param"]) == (400, "extra_body")


@pytest.mark.parametrize(
    ("fields", "broken_by"),
    [
        ({}, []),
        ({"drr": {"max_thinking_tokens": 10}}, "max_thinking_tokens"),
        ({"drr": {"max_steps": 1}}, "max_steps"),
        ({"max_tokens": 40}, "max_tokens"),
        ({"thinking_token_budget": 10}, "thinking_token_budget"),
        ({"chat_template_kwargs": {"enable_thinking": False}}, "chat_template_kwargs"),
        ({"stop": ["36"]}, "stop"),
        ({"temperature": 0.0}, "temperature"),
        ({"logit_bias": {"5": 1}}, "logit_bias"),
        ({"structured_outputs": {"regex": "[0-9]+"}}, "structured_outputs"),
        ({"messages": [{"role": "system", "content": "Be brief."}, *EASY]}, "messages"),
    ],
)
def test_a_promise_is_kept_or_says_what_breaks_it(server: Server, fields: dict[str, Any], broken_by: Any) -> None:
    drr = {"max_lost_correct": 0.01, **fields.pop("drr", {})}
    risk = post(server, **{"messages": EASY, "drr": drr, **fields}).json()["drr"]["risk"]
    assert risk["certified"] == 0.01
    assert risk["holds"] is (not broken_by)
    assert broken_by == risk["broken_by"] or broken_by in risk["broken_by"]


def test_an_effort_chooses_the_risk_where_nothing_else_does(server: Server) -> None:
    def settings(effort: str, **drr: Any) -> dict[str, Any]:
        body = post(server, messages=EASY, reasoning_effort=effort, **({"drr": drr} if drr else {})).json()
        own: dict[str, Any] = body["drr"]["settings"]
        return own

    assert [settings(effort)["max_lost_correct"] for effort in ("low", "medium", "high")] == [0.05, None, 0.01]
    assert (settings("max")["mode"], settings("max")["max_rethinks"]) == ("rethink", 1)
    assert settings("none")["max_thinking_tokens"] == 0
    assert settings("low", report="summary")["max_lost_correct"] == 0.05
    assert settings("low", threshold=0.7)["max_lost_correct"] is None, "the request says it itself"
