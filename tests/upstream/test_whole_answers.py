"""Tier opaque: whole answers, judged when they are there."""

from typing import Any

import pytest

from tests.upstream.serving import QUESTION, WordDm, serving
from tests.upstream.vendors import MODEL, Anthropic, DeepSeek, OpenAI, Said, Vendor, in_turn

WRONG, RIGHT = Said("Four and seventeen. Hm.", "The answer is 22."), Said("Seventeen and four.", "The answer is 21.")
VENDORS = [OpenAI, Anthropic]


def accounted(reply: dict[str, Any], vendor: Vendor) -> None:
    """Every token in exactly one count, and every request in the bill."""
    drr, usage = reply["drr"], reply["usage"]
    assert drr["cost"]["requests"] == len(vendor.bodies)
    assert drr["cost"]["completion_tokens"] == vendor.words_sent == usage["completion_tokens"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]
    if drr["thinking_tokens"] is not None:
        parts = [drr[f"{name}_tokens"] for name in ("thinking", "answer", "discarded", "probe")]
        assert sum(parts) == usage["completion_tokens"]
    cached = drr["cost"]["cached_prompt_tokens"] or 0
    due = (drr["cost"]["prompt_tokens_sent"] - cached) + 0.1 * cached + 10 * drr["cost"]["completion_tokens"]
    assert drr["cost"]["usd"] == pytest.approx(due / 1e6, rel=1e-3, abs=1e-8)


@pytest.mark.parametrize("kind", VENDORS)
async def test_a_rejected_answer_is_thrown_away_and_another_made(kind: type[Vendor]) -> None:
    vendor = kind(in_turn(WRONG, RIGHT))
    dm = WordDm({"22": 0.2, "21": 0.9})
    async with serving(vendor, dm=dm) as served:
        vendor.words_sent = 0
        reply = (await served.ask(drr={"mode": "rethink", "max_rethinks": 2})).json()
        assert reply["choices"][0]["message"]["content"] == RIGHT.answer
        drr = reply["drr"]
        assert (drr["attempts"], drr["stop_cause"]) == (2, "natural")
        assert [attempt["fate"] for attempt in drr["attempt_details"]] == ["rejected", "accepted"]
        assert [step["p_now"] for step in drr["steps"]] == [0.2, 0.9]
        accounted(reply, vendor)
    assert vendor.open == 0
