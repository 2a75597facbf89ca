"""Tier prefix: thinking is judged at every step, and ended by handing the thought back."""

from typing import Any

import pytest

from tests.upstream.serving import QUESTION, WordDm, serving
from tests.upstream.test_whole_answers import answered, content, fates
from tests.upstream.vendors import DeepSeek, Fault, OpenEngine, Said, in_turn, pieces

STEPS = ["Seventeen and four make something. ", "So it is 21. ", "Wait, let me check it. ", "Yes, all is well. "]
LONG = Said("\n\n".join(step.strip() for step in STEPS) + "\n\n" + "Once more, and again. " * 20, "The answer is 21.")
SURE = {"So it is 21": 0.95}


def dm(**believed: float) -> WordDm:
    return WordDm(believed or SURE)


async def test_the_probe_finds_that_a_thought_may_be_handed_back() -> None:
    async with serving(DeepSeek(in_turn(LONG)), dm=dm()) as served:
        chat = served.server.upstream.abilities
        assert (chat.tier, chat.prefix, chat.answer_cue) == ("prefix", "reasoning_content", "")
        assert (chat.limit_field, chat.shows) == ("max_tokens", "reasoning_content")


async def test_a_sure_judge_ends_the_thinking_and_the_thought_is_sent_again() -> None:
    vendor = DeepSeek(in_turn(LONG), always=Fault(slow=0.005))
    async with serving(vendor, dm=dm()) as served:
        response = await served.ask()
        reply = response.json()
        drr, message = reply["drr"], reply["choices"][0]["message"]
        assert (drr["stop_cause"], message["content"]) == ("sure", LONG.answer)
        thought = LONG.thinking[: LONG.thinking.index("Wait")]
        assert message["reasoning"] == thought
        first, second = vendor.bodies
        assert first["messages"] == QUESTION
        last = second["messages"][-1]
        assert last == {"role": "assistant", "content": "", "reasoning_content": thought, "prefix": True}
        assert drr["thinking_tokens"] == len(pieces(thought))
        assert drr["answer_tokens"] == len(pieces(LONG.answer))
        assert [step["verdict"] for step in drr["steps"]] == ["continue", "stop"]
        # The price of it: the thought is a prompt now, and what the first request took is an estimate.
        assert drr["cost"]["requests"] == 2
        assert drr["cost"]["estimated_requests"] == 1
        assert drr["cost"]["prompt_tokens_sent"] >= len(pieces(thought))
        assert (
            sum(drr[f"{part}_tokens"] for part in ("thinking", "answer", "discarded"))
            == (reply["usage"]["completion_tokens"])
        )
        assert drr["cost"]["completion_tokens"] == reply["usage"]["completion_tokens"]
    assert vendor.open == 0
    assert vendor.words_sent < len(pieces(LONG.thinking))  # the upstream was stopped


async def test_an_engines_chat_completions_go_on_behind_a_closed_thought() -> None:
    vendor = OpenEngine(in_turn(LONG), always=Fault(slow=0.005))
    async with serving(vendor, dm=dm()) as served:
        chat = served.server.upstream.abilities
        assert (chat.tier, chat.prefix, chat.limit_field) == (
            "prefix",
            "continue_final_message",
            "max_completion_tokens",
        )
        reply = (await served.ask()).json()
        assert (reply["drr"]["stop_cause"], content(reply)) == ("sure", LONG.answer)
        second = vendor.bodies[1]
        assert (second["continue_final_message"], second["add_generation_prompt"]) == (True, False)
        thought = LONG.thinking[: LONG.thinking.index("Wait")].strip()
        assert second["messages"][-1] == {"role": "assistant", "content": f"<think>\n{thought}\n</think>\n\n"}
        natural = await answered(served, drr={"mode": "off"})
        assert natural["drr"]["thinking_tokens"] == len(pieces(LONG.thinking))  # by what was shown


async def test_thinking_that_nobody_ends_runs_to_its_own_end_in_one_request() -> None:
    async with serving(DeepSeek(in_turn(LONG)), dm=dm(nothing=0.9)) as served:
        reply = await answered(served)
        assert (reply["drr"]["stop_cause"], content(reply)) == ("natural", LONG.answer)
        assert reply["choices"][0]["message"]["reasoning"] == LONG.thinking
        assert reply["drr"]["cost"]["requests"] == 1


@pytest.mark.parametrize(
    ("options", "cause", "kept"),
    [
        ({"max_thinking_tokens": 7}, "max_thinking_tokens", 7),
        ({"max_steps": 1}, "max_steps", len(pieces(STEPS[0]))),
        ({"answer_tokens": 10}, "answer_reserve", 20),
    ],
)
async def test_limits_hold_without_a_judge(options: dict[str, Any], cause: str, kept: int) -> None:
    vendor = DeepSeek(in_turn(LONG))
    async with serving(vendor) as served:
        reply = (await served.ask(drr=options, max_tokens=30)).json()
        assert (reply["drr"]["stop_cause"], content(reply)) == (cause, LONG.answer)
        assert reply["drr"]["thinking_tokens"] == kept
        assert vendor.bodies[0]["max_tokens"] == 30
        assert vendor.bodies[1]["max_tokens"] == 30 - reply["drr"]["thinking_tokens"] - reply["drr"]["discarded_tokens"]


async def test_a_thought_that_is_not_believed_is_rejected_before_its_answer() -> None:
    wrong = Said("It is 22.\n\nSure enough.", "The answer is 22.")
    vendor = DeepSeek(in_turn(wrong, Said("So it is 21.\n\nSo it is 21, yes.", "The answer is 21.")))
    async with serving(vendor, dm=dm()) as served:
        reply = (await served.ask(drr={"mode": "rethink", "max_rethinks": 2, "separator": "[again]"})).json()
        assert content(reply) == "The answer is 21."
        assert fates(reply) == ["rejected", "accepted"]
        reasoning = reply["choices"][0]["message"]["reasoning"]
        assert reasoning.startswith("It is 22.\n\nSure enough.")
        assert "[again]So it is 21." in reasoning
        assert (
            sum(reply["drr"][f"{part}_tokens"] for part in ("thinking", "answer", "discarded"))
            == (reply["usage"]["completion_tokens"])
        )


async def test_the_best_of_the_rejected_is_asked_for_its_answer() -> None:
    attempts = [Said(f"It is {number}.\n\nDone.", f"The answer is {number}.") for number in (22, 23, 24)]
    vendor = DeepSeek(in_turn(*attempts))
    # Behind a thought, the scripted model says what the thought is about.
    script = vendor.script
    vendor.script = lambda body, number: (
        Said("", f"The answer is {body['messages'][-1]['reasoning_content'][6:8]}.")
        if "reasoning_content" in body["messages"][-1] and "stone" not in str(body)
        else script(body, number)
    )
    async with serving(vendor, dm=dm(**{"22": 0.2, "23": 0.4, "24": 0.3, "Done": 0.3})) as served:
        reply = (await served.ask(drr={"mode": "rethink", "max_rethinks": 2, "on_exhausted": "last"})).json()
        assert content(reply) == "The answer is 24."
        assert reply["drr"]["stop_cause"] == "rethink_limit"
        assert fates(reply) == ["rejected", "rejected", "answered"]


async def test_an_upstream_that_thinks_on_gets_a_cue() -> None:
    class ThinksOn(DeepSeek):
        goes_on_thinking = True

        def continued(self, body: Any, said: Said) -> Said:
            last = body["messages"][-1]
            if not last.get("content"):
                return Said("And on.", said.answer)
            return Said("", said.answer.removeprefix("The answer is"))

    vendor = ThinksOn(in_turn(LONG), always=Fault(slow=0.002))
    async with serving(vendor, dm=dm()) as served:
        assert served.server.upstream.abilities.answer_cue == "The answer is"
        reply = (await served.ask()).json()
        assert content(reply) == LONG.answer
        assert reply["drr"]["injected_tokens"] == 1
        assert reply["drr"]["answer_tokens"] == len(pieces(" 21."))


async def test_steps_are_streamed_and_nothing_is_shown_that_is_cut_away() -> None:
    vendor = DeepSeek(in_turn(LONG), always=Fault(slow=0.005))
    async with serving(vendor, dm=dm()) as served:
        response = await served.ask(stream=True, drr={}, stream_options={"include_usage": True})
        assert response.headers["content-type"].startswith("text/event-stream")
        assert "Wait" not in response.text
        assert '"verdict":"stop"' in response.text
        assert response.text.rstrip().endswith("data: [DONE]")
