"""Canaries on the server: which responses are, what becomes of them, and that nothing is left behind."""

import argparse
import asyncio
from collections.abc import AsyncGenerator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from prometheus_client import REGISTRY

from drr.errors import InputError
from drr.judge.disagreement import first_is_right
from drr.loop.onlookers import Watch
from drr.loop.rule import Rule
from drr.loop.steps import StepRule
from server.admission.api_keys import KeyLimits
from server.admission.shares import USING, Share
from server.canaries import Canaries, ShadowDm, may_be_canary, rule_of
from server.canary_counts import Answered, compare
from server.canary_setup import canaries_of
from server.engine import ThinkingEngine
from server.plan import ResponsePlan
from server.report import announcement, choice_reports, short_account
from server.resolve import Asked, resolve
from server.runtime import DrrRuntime
from server.schema import DrrRequest
from server.settings import Defaults, Settings
from tests.fakes import FakeHead
from tests.server.test_engine import ANSWER, PROMPT, THOUGHT, TOKENIZER, Requests, engine_with, params_of, run
from tests.server.test_named_dms import chat
from tests.server.test_promise import request_of
from tests.server.test_truth_table import DEFAULTS

LABELS = {"judge": "logprob", "rule": "default"}
OTHER = TOKENIZER.encode("\n\nThe answer is 35.", add_special_tokens=False)


def counted(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, {**LABELS, **labels}) or 0.0


class Counts:
    """How far the metrics of canaries have gone since it was made."""

    _NAMES = (
        *(
            ("drr_canary_responses_total", "outcome", kind)
            for kind in ("whole", "agreed", "changed", "unread", "dropped")
        ),
        *(("drr_canary_tokens_total", "kind", kind) for kind in ("full", "would", "probe")),
        *(("drr_canary_right_total", "kind", kind) for kind in ("full", "lost", "lost_at_most")),
    )

    def __init__(self) -> None:
        self._before = self._now()

    def _now(self) -> dict[str, float]:
        return {kind: counted(name, **{label: kind}) for name, label, kind in self._NAMES[:5]} | {
            f"{name}/{kind}": counted(name, **{label: kind}) for name, label, kind in self._NAMES[5:]
        }

    def outcomes(self) -> dict[str, int]:
        return {kind: int(value) for kind, value in self._grown().items() if "/" not in kind and value}

    def grown(self, name: str, kind: str) -> float:
        return self._grown()[f"{name}/{kind}"]

    def _grown(self) -> dict[str, float]:
        return {name: value - self._before[name] for name, value in self._now().items()}


class Played(Requests):
    """Plays the thinking, then its own answer; what is asked aside, `aside`. With `pace` an answer aside takes that
    long."""

    def __init__(self, aside: list[int] = ANSWER, pace: float = 0.0, *, fails_aside: bool = False) -> None:
        super().__init__()
        self.aside, self.pace, self.fails_aside, self.running = aside, pace, fails_aside, 0
        self.shares: list[Any] = []

    async def generate(self, engine: Any, prompt: Any, params: Any, request_id: str, **options: Any) -> Any:
        aside = request_id.endswith("-canary")
        if not aside:
            async for output in super().generate(engine, prompt, params, request_id, **options):
                yield output
            return
        self.running += 1
        self.shares.append(USING.get())
        try:
            await asyncio.sleep(self.pace)
            if self.fails_aside:
                raise RuntimeError("the engine is gone")
            inner = Requests()
            inner.seen = [None]  # type: ignore[list-item]
            async for output in self._answer(inner, engine, prompt, params, request_id):
                yield output
        finally:
            self.running -= 1

    async def _answer(self, inner: Requests, *asked: Any) -> AsyncGenerator[Any, None]:
        import tests.server.test_engine as module

        own, module.ANSWER = module.ANSWER, self.aside
        try:
            async for output in inner.generate(*asked):
                yield output
        finally:
            module.ANSWER = own


def engine_of(requests: Requests, monkeypatch: pytest.MonkeyPatch, canaries: Canaries | None = None) -> ThinkingEngine:
    engine = engine_with(requests, monkeypatch)
    assert engine.drr is not None
    engine.drr.canaries = canaries or Canaries(1.0)
    return engine


def canary_plan(engine: ThinkingEngine, threshold: float = 0.5) -> ResponsePlan:
    assert engine.drr is not None
    settings = resolve(DrrRequest.parse({}), replace(engine.drr.defaults, rule=Rule(threshold)))
    settings = replace(settings, canary="default", threshold=threshold)
    return ResponsePlan(settings, "question", "logprob")


async def settled(engine: ThinkingEngine) -> None:
    assert engine.drr is not None
    assert engine.drr.canaries is not None
    async with asyncio.timeout(10):
        await asyncio.gather(*engine.drr.canaries._tasks)


async def answered(engine: ThinkingEngine, asked: ResponsePlan) -> None:
    outputs = await run(engine, asked)
    assert outputs[-1].finished


# Which responses are canaries -----------------------------------------------------------------------------------


def settings(asked: dict[str, Any], **beside: Any) -> Settings:
    return resolve(DrrRequest.parse(asked), DEFAULTS, Asked(**{"temperature": 0.0, **beside}))


@pytest.mark.parametrize(
    "asked",
    [
        {},
        {"report": "summary"},
        {"max_steps": 9},
        {"max_thinking_tokens": 50},
        {"answer_tokens": 9},
        {"max_lost_correct": 0.05},
    ],
)
def test_who_leaves_the_stop_to_the_server_may_be_a_canary(asked: dict[str, Any]) -> None:
    assert may_be_canary(DrrRequest.parse(asked), settings(asked), 1)


@pytest.mark.parametrize(
    "asked",
    [
        *({"mode": mode} for mode in ("auto", "stop", "shadow", "rethink", "off")),
        {"threshold": 0.9},
        {"patience": 2},
        {"scorer": "confidence"},
        {"dm": "head"},
        {"nudge": 1},
        {"max_rethinks": 1},
        {"max_lost_correct": 0.001},
        {"max_thinking_tokens": 0},
    ],
)
def test_who_names_a_mode_a_rule_or_a_judge_is_no_canary(asked: dict[str, Any]) -> None:
    assert not may_be_canary(DrrRequest.parse(asked), settings(asked), 1)


def test_several_choices_are_no_canary() -> None:
    assert not may_be_canary(None, settings({}), 2)


def test_a_rule_is_called_as_the_calibration_calls_it() -> None:
    assert rule_of(settings({})) == "default"
    assert rule_of(settings({"max_lost_correct": 0.05})) == "5 % lost"
    assert DEFAULTS.calibration is not None
    assert "5 % lost" in DEFAULTS.calibration.rules


def test_a_share_is_picked_and_a_request_that_always_has_one_answer_always_likewise() -> None:
    canaries = Canaries(0.2)
    messages = [[{"role": "user", "content": f"{number}"}] for number in range(2000)]
    for seed, temperature in ((1, 0.8), (None, 0.0)):
        picked = [canaries.picks(own, seed, temperature) for own in messages]
        assert 320 < sum(picked) < 480
        assert picked == [canaries.picks(own, seed, temperature) for own in messages]
        assert all(Canaries(1.0).picks(own, seed, temperature) for own in messages[:50])
    assert 320 < sum(canaries.picks(messages[0], None, 0.8) for _ in messages) < 480
    assert sum(canaries.picks(messages[0], seed, 0.8) for seed in range(2000)) not in (0, 2000)


@pytest.mark.parametrize(
    ("share", "drr", "fields", "rule"),
    [
        (1.0, None, {}, "default"),
        (1.0, {"max_steps": 5}, {}, "default"),
        (1.0, {"mode": "auto"}, {}, None),
        (1.0, {"mode": "off"}, {}, None),
        (1.0, {"dm": "small"}, {}, None),
        (1.0, None, {"n": 2}, None),
        (1e-12, None, {}, None),
        (None, None, {}, None),
    ],
)
async def test_a_request_is_planned_as_a_canary_or_not(
    share: float | None, drr: Any, fields: dict[str, Any], rule: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    made, handler = chat(monkeypatch)
    made.runtime.canaries = None if share is None else Canaries(share)
    await made.create_chat_completion(request_of(drr=drr, **fields))
    (plan,) = handler.plans
    assert plan.settings.canary == rule
    assert plan.settings.loop_settings(made.runtime.defaults, 100, separate_answer=False).policy.stops is (rule is None)
    assert ("canary=?1" in announcement(plan)) is (rule is not None)
    assert "canary" not in plan.settings.as_dict(), "it is no setting of the request"


# What becomes of them -------------------------------------------------------------------------------------------


async def test_a_canary_thinks_in_full_and_its_account_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Played()
    engine, counts = engine_of(requests, monkeypatch), Counts()
    asked = canary_plan(engine)
    await answered(engine, asked)
    (report,) = choice_reports(asked, 1)
    assert report["canary"] is True
    assert report["stop_cause"] == "natural"
    generated = asked.account.outcomes[0].generated_tokens
    assert report["thinking_tokens"] + report["answer_tokens"] + report["discarded_tokens"] == generated
    assert report["probe_tokens"] == 0, "what is asked for beside it is nobody's but the operator's"
    assert "canary=?1" in short_account([report])
    await settled(engine)
    assert counts.outcomes() == {"agreed": 1}
    assert (requests.running, requests.shares) == (0, [None])
    probe, would = counts.grown("drr_canary_tokens_total", "probe"), counts.grown("drr_canary_tokens_total", "would")
    assert probe == len(ANSWER)
    assert counts.grown("drr_canary_tokens_total", "full") == generated
    assert probe < would <= generated, "the played engine is through before it could be stopped"


async def test_the_answer_aside_is_what_stopping_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Played()
    engine = engine_of(requests, monkeypatch)
    prompts: list[Any] = []
    generate = Played.generate

    async def seen(self: Played, engine: Any, prompt: Any, params: Any, request_id: str, **options: Any) -> Any:
        prompts.append((request_id, list(prompt["prompt_token_ids"]), params.max_tokens, params.seed))
        async for output in generate(self, engine, prompt, params, request_id, **options):
            yield output

    monkeypatch.setattr(Played, "generate", seen)
    await answered(engine, canary_plan(engine))
    await settled(engine)
    acting = Played()
    engine = engine_of(acting, monkeypatch)
    await answered(engine, replace_canary(canary_plan(engine)))
    aside, stopped = prompts[2], prompts[-1]
    assert [request_id for request_id, *_ in prompts] == ["request", "request", "request-canary", "request", "request"]
    assert aside[1:] == stopped[1:]


def replace_canary(plan: ResponsePlan) -> ResponsePlan:
    plan.settings = replace(plan.settings, canary=None)
    return plan


async def test_no_key_pays_for_the_answer_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Played()
    engine = engine_of(requests, monkeypatch)
    share = Share("key", KeyLimits(None, 100_000), clock=lambda: 0.0)
    USING.set(share)
    asked = canary_plan(engine)
    await answered(engine, asked)
    await settled(engine)
    assert requests.shares == [None], "it was asked for"
    assert 100_000 - share.left() == len(PROMPT) + asked.account.outcomes[0].generated_tokens


async def test_another_answer_is_a_change_and_the_judge_says_what_it_costs(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, counts = engine_of(Played(OTHER), monkeypatch), Counts()
    await answered(engine, canary_plan(engine))
    await settled(engine)
    assert counts.outcomes() == {"changed": 1}
    right, lost = (counts.grown("drr_canary_right_total", kind) for kind in ("full", "lost"))
    most = counts.grown("drr_canary_right_total", "lost_at_most")
    assert 0 < lost < most <= 1
    assert most == pytest.approx(right)


async def test_a_rule_that_stops_nothing_leaves_the_answer_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Played()
    engine, counts = engine_of(requests, monkeypatch), Counts()
    await answered(engine, canary_plan(engine, threshold=1.0))
    await settled(engine)
    assert counts.outcomes() == {"whole": 1}
    assert requests.shares == [], "nothing has to be asked for"
    full, would = (counts.grown("drr_canary_tokens_total", kind) for kind in ("full", "would"))
    assert full == would > len(THOUGHT)


async def test_a_client_that_leaves_leaves_no_canary(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Played()
    engine, counts = engine_of(requests, monkeypatch), Counts()
    stream = engine.generate({"prompt_token_ids": PROMPT}, params_of(canary_plan(engine)), "request")
    await anext(stream)
    await stream.aclose()
    await settled(engine)
    assert counts.outcomes() == {"dropped": 1}
    assert requests.shares == []


async def test_an_engine_that_fails_aside_drops_the_canary(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    requests = Played(fails_aside=True)
    engine, counts = engine_of(requests, monkeypatch), Counts()
    await answered(engine, canary_plan(engine))
    await settled(engine)
    assert counts.outcomes() == {"dropped": 1}
    assert requests.running == 0
    assert "the engine is gone" in caplog.text


async def test_a_shutdown_ends_what_is_asked_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    requests, canaries = Played(pace=60.0), Canaries(1.0)
    engine, counts = engine_of(requests, monkeypatch, canaries), Counts()
    for _ in range(4):
        requests.seen.clear()
        await answered(engine, canary_plan(engine))
    await asyncio.sleep(0.05)
    assert requests.running == 2, "a few at a time"
    await canaries.close()
    assert requests.running == 0
    assert counts.outcomes() == {"dropped": 4}
    requests.seen.clear()
    await answered(engine, canary_plan(engine))
    assert counts.outcomes() == {"dropped": 5}, "and nothing is begun any more"


async def test_what_takes_too_long_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.canaries._SECONDS", 0.05)
    requests = Played(pace=60.0)
    engine, counts = engine_of(requests, monkeypatch), Counts()
    await answered(engine, canary_plan(engine))
    await settled(engine)
    assert (counts.outcomes(), requests.running) == ({"dropped": 1}, 0)


async def test_a_busy_server_drops_canaries_whatever_the_rule_would_have_done(monkeypatch: pytest.MonkeyPatch) -> None:
    requests = Played()
    engine, counts = engine_of(requests, monkeypatch, Canaries(1.0, busy=lambda: True)), Counts()
    for threshold in (0.5, 1.0):
        requests.seen.clear()
        await answered(engine, canary_plan(engine, threshold))
    assert counts.outcomes() == {"dropped": 2}
    assert requests.shares == []


async def test_second_answers_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("server.canaries._MOST_WAITING", 3)
    requests, canaries = Played(pace=60.0), Canaries(1.0)
    engine, counts = engine_of(requests, monkeypatch, canaries), Counts()
    for _ in range(5):
        requests.seen.clear()
        await answered(engine, canary_plan(engine))
    assert counts.outcomes() == {"dropped": 2}
    await canaries.close()


# What is compared -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("full", "would", "shown"),
    [
        ("The answer is 36.", "So the answer is 36", "agreed"),
        ("The answer is 36.", "It is 36 apples.", "agreed"),
        ("The answer is 36.", "The answer is 35.", "changed"),
        ("The answer is 36.", None, "whole"),
        ("", "The answer is 36.", "unread"),
        ("The answer is 36.", "", "changed"),
        ("word " * 100, "The answer is 36.", "unread"),
        ("yes", "Yes, it is.", "agreed"),
    ],
)
def test_answers_are_compared_by_what_they_mean(full: str, would: str | None, shown: str) -> None:
    asked = None if would is None else Answered(would, False, 9)
    assert compare(Answered(full, False, 9), asked) == shown


def test_an_answer_that_a_limit_cut_off_is_none() -> None:
    whole, cut = Answered("The answer is 36.", False, 9), Answered("The answer is 36.", True, 9)
    assert compare(cut, whole) == "unread"
    assert compare(whole, cut) == "changed"


def test_of_two_different_answers_at_most_one_is_right() -> None:
    assert first_is_right(0.5, 0.5) == pytest.approx(1 / 3)
    assert first_is_right(0.9, 0.1) == pytest.approx(0.81 / (0.81 + 0.01 + 0.09))
    assert first_is_right(1.0, 1.0) == 0.5
    for first in (0.0, 0.2, 0.7, 1.0):
        for second in (0.1, 0.6, 0.9):
            one, other = first_is_right(first, second), first_is_right(second, first)
            assert one <= first
            assert one + other <= 1 + 1e-12


def test_a_watch_without_onlookers_is_the_judges_own() -> None:
    assert Watch().onlookers == ()


# What the flags ask for -----------------------------------------------------------------------------------------


def made(defaults: Defaults, door: Any, share: float | None = 0.1, shadow: list[str] | None = None) -> Canaries | None:
    args = argparse.Namespace(drr_canary_share=share, drr_shadow_dm=shadow)
    dms: Any = [SimpleNamespace(name=""), SimpleNamespace(name="head", scorer=FakeHead())]
    return canaries_of(args, DrrRuntime(None, StepRule(), {}, defaults), dms, door)


def door_of(waiting: int = 0, closed: object = None) -> Any:
    return SimpleNamespace(closed=closed, gate=SimpleNamespace(waiting=waiting))


def test_without_a_share_there_are_none() -> None:
    assert made(DEFAULTS, door_of(), share=None) is None


def test_a_judge_that_never_stops_anything_leaves_nothing_to_compare() -> None:
    bare = replace(DEFAULTS, rule=Rule(None), calibration=None)
    with pytest.raises(InputError, match="no rule of this judge ever stops anything"):
        made(bare, door_of())


def test_canaries_give_way_where_requests_wait_or_the_door_is_closed() -> None:
    for door, busy in ((door_of(), False), (door_of(waiting=1), True), (door_of(closed="ending"), True)):
        canaries = made(DEFAULTS, door)
        assert canaries is not None
        assert canaries._busy() is busy


def test_an_onlooker_goes_by_its_own_rule_of_the_same_name() -> None:
    dm = ShadowDm("head", FakeHead(), DEFAULTS.beside["head"])
    onlooker = dm.onlooker("default")
    assert onlooker is not None
    assert onlooker.name == "dm:head"
    assert dm.onlooker("5 % lost") is None, "it has not been calibrated"
    assert DEFAULTS.calibration is not None
    calibrated = ShadowDm("head", FakeHead(), replace(dm.dm, calibration=DEFAULTS.calibration))
    assert calibrated.onlooker("5 % lost") is not None


def test_what_calibrations_promise_is_in_the_metrics() -> None:
    made(DEFAULTS, door_of(), shadow=["head"])
    promised = REGISTRY.get_sample_value("drr_canary_promised_lost_correct", {"judge": "dm", "rule": "5 % lost"})
    assert promised == 0.05
