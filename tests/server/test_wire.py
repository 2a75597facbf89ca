"""What is thinking, what is answer, and what was counted: the same whole and streamed, whatever a request asks for."""

from typing import Any

import httpx
import openai
import pytest
from transformers import AutoTokenizer

from drr import reference
from tests.server.running import MODEL, Server

APPLES: Any = [{"role": "user", "content": "Tom has 12 apples. He buys 3 bags of 8 apples each. How many apples now?"}]
PUZZLE: Any = [{"role": "user", "content": "Use the numbers 3, 7, 11 and 25 with + - * / to make 54."}]
TOKENIZER = AutoTokenizer.from_pretrained(reference.reasoner_folder())


def shown(server: Server, **fields: Any) -> tuple[str, str]:
    """(reasoning, content) of a streamed response."""
    reasoning = content = ""
    for chunk in server.ask(stream=True, **fields):
        for choice in chunk.choices:
            reasoning += getattr(choice.delta, "reasoning", None) or ""
            content += choice.delta.content or ""
    return reasoning, content


def whole(server: Server, **fields: Any) -> tuple[Any, tuple[str, str]]:
    """A response, and its (reasoning, content)."""
    response = server.ask(**fields)
    message = response.choices[0].message
    return response, (message.reasoning or "", message.content or "")


@pytest.mark.parametrize("drr", [None, {"mode": "off"}, {"mode": "shadow"}, {"threshold": 0.0}])
@pytest.mark.parametrize(
    "switch", [{"extra_body": {"chat_template_kwargs": {"enable_thinking": False}}}, {"reasoning_effort": "none"}]
)
def test_without_thinking_all_is_content(server: Server, switch: dict[str, Any], drr: Any) -> None:
    asked = {"messages": APPLES, "temperature": 0, "max_tokens": 60, "drr": drr, **switch}
    response, texts = whole(server, **asked)
    assert texts[0] == ""
    assert "answer" in texts[1]
    assert shown(server, **asked) == texts
    assert response.drr["thinking_tokens"] == 0
    assert response.usage.completion_tokens_details.reasoning_tokens == 0


@pytest.mark.parametrize("drr", [{"mode": "off"}, {"mode": "shadow"}])
def test_an_opening_marker_within_the_thinking_is_thinking(server: Server, drr: Any) -> None:
    asked = {"messages": APPLES, "temperature": 0, "max_tokens": 120, "logit_bias": {"694": 12}, "drr": drr}
    response, texts = whole(server, **asked)
    assert shown(server, **asked) == texts
    assert "<think>" in texts[0]
    thought = response.drr["thinking_tokens"]
    assert thought == len(TOKENIZER.encode(texts[0], add_special_tokens=False))


def test_vllms_thinking_budget_is_kept_and_told(server: Server) -> None:
    for drr in ({"mode": "off"}, {"threshold": 1.0}):
        response, (reasoning, content) = whole(
            server, messages=APPLES, temperature=0, drr=drr, extra_body={"thinking_token_budget": 10}
        )
        assert response.drr["stop_cause"] == "thinking_token_budget"
        assert response.drr["thinking_tokens"] == 10
        assert reasoning
        assert "answer" in content


def test_thinking_that_max_tokens_cuts_off_says_so(server: Server) -> None:
    response, (_, content) = whole(server, messages=APPLES, temperature=0, max_tokens=20, drr={"mode": "shadow"})
    assert (response.drr["stop_cause"], response.choices[0].finish_reason) == ("max_tokens", "length")
    assert content == ""


def test_what_is_no_content_is_counted_as_reasoning(server: Server) -> None:
    drr = {"mode": "rethink", "accept": 1.0, "max_rethinks": 3, "parallel": 4}
    response, (_, content) = whole(server, messages=PUZZLE, temperature=0, drr=drr)
    usage = response.usage
    said = usage.completion_tokens - usage.completion_tokens_details.reasoning_tokens
    assert said == len(TOKENIZER.encode(content, add_special_tokens=False)) + 1, "the content and the end of the turn"
    assert response.drr["discarded_tokens"] > said


def test_given_thinking_is_judged_with_what_follows(server: Server) -> None:
    asked: dict[str, Any] = {"temperature": 0, "drr": {"mode": "shadow"}}
    alone, (reasoning, _) = whole(server, messages=APPLES, **asked)
    steps = reasoning.split("\n\n")
    assert len(steps) > 3
    given = "<think>\n" + "\n\n".join(steps[:-2]) + "\n\n"
    messages = [*APPLES, {"role": "assistant", "content": given}]
    extra = {"continue_final_message": True, "add_generation_prompt": False}
    continued, _ = whole(server, messages=messages, extra_body=extra, **asked)
    sure = max(step["p_now"] for step in alone.drr["steps"])
    assert sure > 0.8
    assert max(step["p_now"] for step in continued.drr["steps"]) > 0.5, "the judge has seen the beginning"
    stopped, (thought, content) = whole(
        server, messages=messages, extra_body=extra, temperature=0, drr={"threshold": 0.5, "patience": 1}
    )
    assert stopped.drr["stop_cause"] in ("sure", "natural")
    assert "answer" in content
    assert stopped.drr["thinking_tokens"] < alone.drr["thinking_tokens"]
    assert thought is not None


@pytest.mark.parametrize("stop", ["=", "\n\n", "\n"])
@pytest.mark.parametrize("drr", [None, {"mode": "off"}, {"mode": "shadow"}, {"threshold": 0.0}])
def test_stop_texts_spare_the_thinking_and_the_blank_before_the_answer(server: Server, stop: str, drr: Any) -> None:
    asked = {"messages": APPLES, "temperature": 0, "stop": [stop], "drr": drr}
    _, texts = whole(server, **asked)
    assert shown(server, **asked) == texts
    assert stop in texts[0], "thinking goes on past the stop text"
    assert "answer is" in texts[1]
    assert stop not in texts[1].strip()


def test_stop_texts_spare_the_thinking_under_an_alias_too(server: Server) -> None:
    _, (reasoning, content) = whole(server, model=f"{MODEL}:full", messages=APPLES, temperature=0, stop=["="])
    assert "=" in reasoning
    assert "answer is" in content


def test_stop_sequences_of_messages_spare_the_thinking(server: Server) -> None:
    body = {"model": MODEL, "max_tokens": 400, "messages": APPLES, "stop_sequences": ["="], "temperature": 0}
    blocks = httpx.post(f"{server.url}/v1/messages", json=body, timeout=60).raise_for_status().json()["content"]
    texts = {block["type"]: block.get("text") or block.get("thinking") for block in blocks}
    assert "=" in texts["thinking"]
    assert "answer is" in texts["text"]


@pytest.mark.parametrize("path", ["/v1/completions", "/v1/messages/count_tokens", "/tokenize", "/detokenize"])
def test_other_endpoints_name_the_drr_object_that_they_refuse(server: Server, path: str) -> None:
    body = {"model": MODEL, "max_tokens": 5, "messages": APPLES, "prompt": "x", "tokens": [1], "drr": {"nonsense": 1}}
    response = httpx.post(f"{server.url}{path}", json=body, timeout=60)
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "drr"


def test_a_default_header_does_not_break_what_only_reads(server: Server) -> None:
    headers = {"X-DRR": '{"threshold": 0.9}'}
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", default_headers=headers, max_retries=0)
    names = [model.id for model in client.models.list()]
    assert names == [MODEL, f"{MODEL}:drr", f"{MODEL}:full"]
    assert httpx.get(f"{server.url}/health", headers=headers).status_code == 200
    version = httpx.get(f"{server.url}/version", headers=headers).json()
    assert set(version) == {"version", "drr"}
    client.close()


def test_the_plan_cannot_be_forged(server: Server) -> None:
    with pytest.raises(openai.BadRequestError, match="vllm_xargs"):
        server.ask(extra_body={"vllm_xargs": {"drr": "x"}})
    with pytest.raises(openai.BadRequestError, match="vllm_xargs"):
        server.sdk.completions.create(model=MODEL, prompt="x", max_tokens=3, extra_body={"vllm_xargs": {"drr": "x"}})


def test_thinking_can_be_shown_as_content(server: Server) -> None:
    asked = {"messages": APPLES, "temperature": 0, "drr": {"thinking_in": "content", "threshold": 0.0}}
    response, (reasoning, content) = whole(server, **asked)
    assert reasoning == ""
    assert "</think>" in content
    assert "answer is" in content
    assert shown(server, **asked) == ("", content)
    assert response.usage.completion_tokens_details.reasoning_tokens == response.drr["discarded_tokens"]


@pytest.mark.parametrize("tokens", [1, 2, 5, 12, 40])
@pytest.mark.parametrize("stop", ["\n", " answer"])
@pytest.mark.parametrize("drr", [{}, {"mode": "off", "answer_tokens": 8}])
def test_max_tokens_holds_where_the_blank_before_the_answer_comes_apart(
    server: Server, tokens: int, stop: str, drr: Any
) -> None:
    response = server.ask(messages=APPLES, temperature=0, max_tokens=tokens, stop=[stop], drr=drr)
    assert response.usage.completion_tokens <= tokens


def test_an_abstention_of_attempts_that_nobody_saw_has_an_end(server: Server) -> None:
    drr = {"mode": "rethink", "accept": 1.0, "parallel": 2, "on_exhausted": "abstain", "refusal": "no"}
    (chunk,) = [
        chunk
        for chunk in server.ask(messages=APPLES, max_tokens=30, stream=True, drr=drr)
        if chunk.choices and chunk.choices[0].finish_reason
    ]
    assert (chunk.choices[0].delta.refusal, chunk.choices[0].finish_reason) == ("no", "stop")
    assert chunk.drr["stop_cause"] == "abstained"


def test_refusals_name_what_was_sent(server: Server) -> None:
    for header, param in (
        ('{"mode": "stop", "max_rethinks": 2}', "X-DRR.max_rethinks"),
        ('{"moode": "stop"}', "X-DRR.moode"),
        ("7", "X-DRR"),
    ):
        with pytest.raises(openai.BadRequestError, match=param) as caught:
            server.ask(extra_headers={"X-DRR": header})
        assert caught.value.param == param
    with pytest.raises(openai.BadRequestError) as contradicted:
        server.ask(model=f"{MODEL}:full", extra_headers={"X-DRR": '{"mode": "auto"}'})
    assert contradicted.value.param == "X-DRR.mode"


def test_an_effort_asks_for_no_risk_where_nothing_is_thought(server: Server) -> None:
    response = server.ask(messages=APPLES, reasoning_effort="low", drr={"max_thinking_tokens": 0})
    assert response.drr["thinking_tokens"] == 0
    assert response.drr["settings"]["max_lost_correct"] is None


def test_beam_search_keeps_what_it_takes_of_drr_and_refuses_the_rest(server: Server) -> None:
    beams = {"extra_body": {"use_beam_search": True}, "messages": APPLES, "max_tokens": 4, "temperature": 0}
    assert not hasattr(server.ask(**beams, drr={"mode": "off", "report": "none"}), "drr")
    assert server.ask(**beams, drr={"mode": "off"}).drr["thinking_tokens"] is None
    for drr in ({}, {"mode": "off", "answer_tokens": 5}, {"mode": "off", "thinking_in": "content"}):
        with pytest.raises(openai.BadRequestError) as caught:
            server.ask(**beams, drr=drr)
        assert caught.value.param == "use_beam_search"


def test_thinking_that_is_shown_as_reasoning_counts_as_such(server: Server) -> None:
    drr = {"max_rethinks": 1, "accept": 1.0, "rethink": "in_context", "on_exhausted": "last", "thinking_in": "content"}
    response, (reasoning, _) = whole(server, messages=PUZZLE, temperature=0, max_tokens=500, drr=drr)
    first = response.drr["attempt_details"][0]
    assert len(TOKENIZER.encode(reasoning, add_special_tokens=False)) >= first["thinking_tokens"] > 0
    told = response.usage.completion_tokens_details.reasoning_tokens
    assert told == first["thinking_tokens"] + response.drr["discarded_tokens"]


def test_attempts_vote_where_none_is_accepted(server: Server) -> None:
    drr = {"mode": "rethink", "max_rethinks": 2, "accept": 1.0, "on_exhausted": "vote"}
    response = server.ask(messages=PUZZLE, temperature=0.8, seed=3, max_tokens=1800, drr=drr)
    fates = [attempt["fate"] for attempt in response.drr["attempt_details"]]
    assert response.choices[0].message.content
    assert response.drr["settings"]["on_exhausted"] == "vote"
    assert response.drr["stop_cause"] == "rethink_limit"
    assert sorted(fates) == ["answered", "rejected", "rejected"]


def test_an_empty_message_of_an_assistant_is_the_clients_mistake(server: Server) -> None:
    said = {"type": "message", "id": "m", "status": "completed", "role": "assistant", "content": []}
    client = openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0)
    asked: Any = [{"role": "user", "content": "1+1"}, said]
    with pytest.raises(openai.BadRequestError) as caught:
        client.responses.create(model=MODEL, input=asked)
    assert caught.value.param == "input[1].content"
