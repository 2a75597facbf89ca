"""Every option in front of every vendor: honoured, or refused with the reason. None is ignored."""

from typing import Any

import pytest

from server.keys import BY_NAME, KEYS
from server.upstream_chat import tiers
from tests.upstream.serving import Served, WordDm, serving
from tests.upstream.vendors import Anthropic, DeepSeek, OpenAI, OpenEngine, Said, Vendor, in_turn

SAID = Said("So it is 22.\n\nThat will do. And more of it, again and again.", "The answer is 22.")
VENDORS = [OpenAI, Anthropic, DeepSeek, OpenEngine]

RETHINK = {"mode": "rethink", "max_rethinks": 1}
VALUES: dict[str, tuple[Any, dict[str, Any]]] = {
    "mode": ("shadow", {}),
    "threshold": (0.2, {}),
    "hopeless": (0.5, {}),
    "min_gain": (0.0, {}),
    "patience": (2, {}),
    "max_lost_correct": (0.05, {}),
    "min_steps": (2, {}),
    "max_steps": (1, {}),
    "min_step_tokens": (3, {}),
    "max_thinking_tokens": (3, {}),
    "answer_tokens": (5, {}),
    "nudge": (1, {}),
    "nudge_below": (0.4, {"nudge": 1}),
    "max_rethinks": (2, {"mode": "rethink"}),
    "accept": (0.01, RETHINK),
    "rethink": ("in_context", RETHINK),
    "parallel": (2, RETHINK),
    "rethink_temperature": (0.7, RETHINK),
    "on_exhausted": ("last", RETHINK),
    "refusal": ("No.", {**RETHINK, "on_exhausted": "abstain"}),
    "separator": ("[next]", RETHINK),
    "scorer": ("stated", {}),
    "dm": ("other", {}),
    "thinking_in": ("content", {}),
    "report": ("none", {}),
}
"""For every key a value that is not its default, and keys without which it has no effect."""


def test_every_key_is_tried() -> None:
    assert set(VALUES) == set(BY_NAME) == {key.name for key in KEYS}


@pytest.mark.parametrize("kind", VENDORS)
async def test_every_key_is_in_force_or_refused_by_name(kind: type[Vendor]) -> None:
    async with serving(kind(in_turn(SAID)), dm=WordDm({"22": 0.3})) as served:
        tier = served.server.upstream.abilities.tier
        for name, (value, beside) in VALUES.items():
            temperature = 0.0 if name == "rethink_temperature" and kind is not OpenAI else None
            if name == "rethink_temperature" and kind is OpenAI:
                continue  # its vendor takes no temperature: see below
            response = await served.ask(drr={**beside, name: value}, temperature=temperature)
            if response.status_code == 400:
                error = response.json()["error"]
                assert error["param"] in (f"drr.{name}", *(f"drr.{key}" for key in beside)), (name, error)
                assert name in tiers.REFUSED[tier] or name == "rethink", error
                continue
            assert response.status_code == 200, (name, response.text)
            assert name not in tiers.REFUSED[tier], name
            if name != "report":
                assert response.json()["drr"]["settings"][name] == value
            else:
                assert "drr" not in response.json()


async def test_every_key_changes_what_is_done() -> None:
    """Where a key is taken, the response is another one."""
    async with serving(OpenAI(in_turn(SAID)), dm=WordDm({"22": 0.3})) as served:
        rejected = await _fates(served, RETHINK)
        assert rejected == ["answered", "rejected"]
        assert await _fates(served, {**RETHINK, "accept": 0.01}) == ["accepted"]
        assert len(await _fates(served, {**RETHINK, "max_rethinks": 3})) == 4
        assert await _fates(served, {**RETHINK, "on_exhausted": "last"}) == ["rejected", "answered"]
        assert await _fates(served, {**RETHINK, "scorer": "stated"}) == ["accepted"]
        assert await _fates(served, {**RETHINK, "on_exhausted": "abstain"}) == ["rejected", "rejected"]


async def _fates(served: Served, drr: dict[str, Any]) -> list[str]:
    reply = (await served.ask(drr=drr)).json()
    return [attempt["fate"] for attempt in reply["drr"]["attempt_details"]]


@pytest.mark.parametrize("kind", [Anthropic, DeepSeek])
async def test_attempts_after_a_greedy_one_are_sampled(kind: type[Vendor]) -> None:
    vendor = kind(in_turn(SAID))
    async with serving(vendor, dm=WordDm({"22": 0.3})) as served:
        await served.ask(temperature=0, drr={**RETHINK, "rethink_temperature": 0.7, "separator": ""})
        temperatures = [body["temperature"] for body in vendor.bodies if len(body["messages"]) == 1]
        assert temperatures == [0, 0.7]


@pytest.mark.parametrize(
    ("tier", "drr", "param", "why"),
    [
        ("opaque", {"mode": "stop"}, "drr.mode", "whole answers"),
        ("opaque", {"scorer": "confidence"}, "drr.scorer", "use dm, self_critique"),
        ("prefix", {"scorer": "self_critique"}, "drr.scorer", "use dm, random"),
        ("prefix", {"max_lost_correct": 0.1}, "drr.max_lost_correct", "certified"),
        ("opaque", {"threshold": 0.9}, "drr.threshold", "middle of a thought"),
        ("opaque", {"tresh": 1}, "drr.tresh", "unknown key"),
        ("opaque", {**RETHINK, "rethink": "in_context"}, "drr.rethink", "use fresh"),
        ("opaque", {"accept": 0.3}, "drr.accept", "max_rethinks"),
    ],
)
async def test_what_a_tier_cannot_do_is_refused_with_the_reason(tier: str, drr: Any, param: str, why: str) -> None:
    kind: type[Vendor] = OpenAI if tier == "opaque" else DeepSeek
    async with serving(kind(in_turn(SAID)), dm=WordDm({"22": 0.3})) as served:
        response = await served.ask(drr=drr)
        error = response.json()["error"]
        assert (response.status_code, error["param"]) == (400, param)
        assert why in error["message"]
        assert served.vendor.bodies == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("n", 2),
        ("logprobs", True),
        ("functions", [{"name": "f"}]),
        ("audio", {"voice": "x"}),
        ("messages", []),
        ("messages", "hello"),
        ("stream_options", {"include_usage": True}),
        ("max_tokens", 0),
        ("temperature", "warm"),
    ],
)
async def test_fields_that_could_not_be_honoured_are_refused(field: str, value: Any) -> None:
    async with serving(OpenAI(in_turn(SAID)), dm=WordDm({"22": 0.3})) as served:
        response = await served.ask(**{field: value})
        assert (response.status_code, response.json()["error"]["param"]) == (400, field)
        assert served.vendor.bodies == []


async def test_fields_that_are_not_known_here_are_the_upstreams_to_judge() -> None:
    async with serving(OpenAI(in_turn(SAID)), dm=WordDm({"22": 0.3})) as served:
        response = await served.ask(treshold=1)
        assert response.status_code == 400
        assert response.json()["error"]["param"] == "treshold"
        assert len(served.vendor.bodies) == 1


async def test_what_is_no_json_is_refused() -> None:
    async with serving(OpenAI(in_turn(SAID))) as served:
        for content in (b"{", b"[]", b"3"):
            response = await served.http.post("/v1/chat/completions", content=content)
            assert (response.status_code, response.json()["error"]["param"]) == (400, "body")


def test_the_pages_table_is_that_of_the_code() -> None:
    from pathlib import Path

    page = (Path(__file__).parents[2] / "docs" / "closed-models.md").read_text()
    assert tiers.markdown_table() in page
