"""The real thing: the reference models on real vLLM, over a real socket, with the OpenAI SDK."""

import asyncio
import functools
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import psutil
import pytest

from drr import reference
from drr.certify.calibrate import by_rollout
from drr.engine.open_reasoner import open_server
from drr.evaluate.eval_config import EvalConfig
from drr.evaluate.run import Evaluator, evaluate, read_outcomes
from drr.evaluate.strategies import all_strategies
from drr.judge.calibration import Calibration, Certificate
from drr.judge.dm_folder import HEAD_NAME, STATE_HEAD_NAME, DmCard, fingerprint, load_dm_head
from drr.judge.head import save_head
from drr.judge.scorer_card import ScorerCard
from drr.judge.scorers.registry import training_free
from drr.learn.distill import distill, draw_seed
from drr.learn.distill_config import DistillConfig
from drr.learn.fusion import probabilities
from drr.learn.judging import Judge
from drr.learn.records import Manifest, read_rollouts
from drr.learn.states import read_states
from drr.loop.rule import Rule
from drr.tasks import Split
from drr.tasks.arithmetic import questions
from drr.tasks.grading_pool import Grading
from tests.server.running import MESSAGES, MODEL, Server, start, stop

SERVED_DM = reference.dm_folder(reference.SERVED_DM)
NEVER = {"threshold": 1.0, "hopeless": 0.0, "min_gain": -1.0}
"""A rule that ends no thinking early."""


def test_rejected_attempts_are_shown_and_another_answers(server: Server) -> None:
    drr = {"mode": "rethink", "accept": 1.0, "max_rethinks": 2}
    response = server.ask(drr=drr)
    own, message = response.drr, response.choices[0].message
    assert (own["stop_cause"], own["attempts"]) == ("rethink_limit", 3)
    fates = [attempt["fate"] for attempt in own["attempt_details"]]
    beliefs = [attempt["p_now"] for attempt in own["attempt_details"]]
    assert sorted(fates) == ["answered", "rejected", "rejected"]
    assert fates[beliefs.index(max(beliefs))] == "answered", "the best one answers after all"
    assert message.content.strip().startswith("The answer is")
    generated = sum(attempt["generated_tokens"] for attempt in own["attempt_details"])
    assert response.usage.completion_tokens == generated
    assert own["thinking_tokens"] + own["discarded_tokens"] < generated
    assert len({step["attempt"] for step in own["steps"]}) == 3
    starts = [
        attempt.strip()[:200] for attempt in message.reasoning.split("[this attempt was rejected; here is another]")
    ]
    assert len(starts) == 3
    assert len(set(starts)) > 1, "an attempt is not the one before again"
    again = server.ask(drr=drr)
    assert again.choices[0].message.content == message.content, "a seed decides everything"


def test_a_doubted_answer_can_be_withheld(server: Server) -> None:
    response = server.ask(drr={"accept": 1.0, "threshold": 1.0, "on_exhausted": "abstain"})
    assert response.drr["stop_cause"] == "abstained"
    message = response.choices[0].message
    assert (message.content, message.refusal) == (None, "I am not sure enough of any answer to give one.")
    assert response.choices[0].finish_reason == "stop"
    assert response.drr["thinking_tokens"] == 0
    assert response.usage.completion_tokens == response.drr["discarded_tokens"]


@pytest.mark.parametrize("drr", [{"parallel": 3}, {"rethink": "in_context"}, {}])
@pytest.mark.parametrize("temperature", [0.0, 0.8])
def test_attempts_stream_in_every_form(server: Server, drr: dict[str, Any], temperature: float) -> None:
    asked = {"mode": "rethink", "accept": 1.0, "max_rethinks": 2, **drr}
    content, attempts, summary = "", set(), None
    for chunk in server.ask(stream=True, temperature=temperature, drr=asked):
        for choice in chunk.choices:
            content += choice.delta.content or ""
        own = getattr(chunk, "drr", None) or {}
        if "step" in own:
            attempts.add(own["step"]["attempt"])
        summary = own if "stop_cause" in own else summary
    assert summary is not None
    assert attempts == {0, 1, 2}
    assert summary["stop_cause"] == "rethink_limit"
    assert content.strip().startswith("The answer is")
    assert server.metric("drr_attempts_total") >= 3


@pytest.mark.parametrize("scorer", ["confidence", "entropy", "answer_probe", "self_critique", "critique", "logprob"])
def test_any_scorer_can_judge_and_what_it_asks_is_counted(server: Server, scorer: str) -> None:
    shadow = server.ask(drr={"scorer": scorer, "mode": "shadow"})
    own = shadow.drr
    assert own["judge"]["id"] == scorer
    assert own["judge"]["failed"] == own["judge"]["late"] == 0
    scores = [step["p_now"] for step in own["steps"]]
    assert all(0 <= score <= 1 for score in scores)
    assert len(set(scores)) > 1
    assert (own["probe_tokens"] > 0) is (scorer != "logprob")
    off = server.ask(drr={"mode": "off"})
    assert shadow.choices[0].message.content == off.choices[0].message.content
    assert shadow.usage.completion_tokens == off.usage.completion_tokens + own["probe_tokens"]
    stopped = server.ask(drr={"scorer": scorer, "threshold": max(scores)})
    assert stopped.drr["stop_cause"] in ("sure", "natural")


def test_unchanged_client_code_streams_reasoning_then_content(server: Server) -> None:
    kinds: list[str] = []
    times: list[float] = []
    drr = None
    for chunk in server.ask(stream=True):
        delta = chunk.choices[0].delta  # as every example does: no chunk may come without choices
        kind = "reasoning" if getattr(delta, "reasoning", None) else "content" if delta.content else None
        if kind is not None:
            times.append(time.perf_counter())
            kinds.append(kind)
        drr = getattr(chunk, "drr", drr)
    assert sorted(set(kinds), reverse=True) == ["reasoning", "content"]
    assert kinds == sorted(kinds, reverse=True), "reasoning first, then content"
    assert drr is not None
    assert drr["stop_cause"] in ("natural", "sure")
    assert drr["settings"]["mode"] == "auto"
    assert drr["steps"]
    assert all(0 <= step["p_now"] <= 1 for step in drr["steps"])
    assert len(set(times)) > 10, "tokens come as they are thought"


def test_whole_answers_carry_the_account(server: Server) -> None:
    response = server.ask(drr={"threshold": 0.0, "min_steps": 2})
    drr, message = response.drr, response.choices[0].message
    assert drr["stop_cause"] == "sure"
    assert [step["verdict"] for step in drr["steps"]] == ["continue", "stop"]
    assert sum(step["tokens"] for step in drr["steps"]) == drr["thinking_tokens"]
    assert message.reasoning.count("\n\n") == 2
    assert message.content.strip().startswith("The answer is")
    assert drr["judge"]["id"] == DmCard.load(SERVED_DM).id
    details = response.usage.completion_tokens_details
    assert details.reasoning_tokens == drr["thinking_tokens"] + drr["discarded_tokens"]
    assert response.usage.completion_tokens > details.reasoning_tokens


def test_steps_and_summary_stream_as_chunks_when_asked_for(server: Server) -> None:
    chunks = list(server.ask(stream=True, stream_options={"include_usage": True}, drr={"report": "steps"}))
    extra = [chunk for chunk in chunks if not chunk.choices]
    assert chunks[-1] is extra[-1]
    assert all("step" in chunk.drr for chunk in extra[:-1])
    last, usage = chunks[-2], extra[-1].usage
    assert last.choices[0].delta.drr == last.drr
    summary = last.drr
    assert usage.completion_tokens_details.reasoning_tokens == summary["thinking_tokens"] + summary["discarded_tokens"]
    assert [chunk.drr["step"]["index"] for chunk in extra[:-1]] == list(range(len(extra) - 1))


def test_streamed_and_whole_answers_are_the_same(server: Server) -> None:
    whole = server.ask(drr={"threshold": 0.5}).choices[0].message
    reasoning = content = ""
    for chunk in server.ask(stream=True, drr={"threshold": 0.5}):
        if chunk.choices:
            reasoning += getattr(chunk.choices[0].delta, "reasoning", None) or ""
            content += chunk.choices[0].delta.content or ""
    assert (reasoning, content) == (whole.reasoning, whole.content)


def test_same_seed_same_answer_across_resubmission(server: Server) -> None:
    asked = {"drr": {"threshold": 0.0, "min_steps": 3}, "temperature": 1.5}
    first, again, other = server.ask(**asked), server.ask(**asked), server.ask(**asked, seed=2)
    assert first.choices[0].message == again.choices[0].message
    assert first.choices[0].message != other.choices[0].message


def test_off_is_plain_vllm(server: Server) -> None:
    response = server.ask(drr={"mode": "off"}, temperature=0)
    assert response.drr["stop_cause"] == "off"
    assert response.drr["thinking_tokens"] == response.usage.completion_tokens_details.reasoning_tokens > 0
    alias = server.sdk.chat.completions.create(model=f"{MODEL}:full", messages=MESSAGES, temperature=0)
    assert alias.choices[0].message.reasoning == response.choices[0].message.reasoning
    shadow = server.ask(drr={"mode": "shadow"}, temperature=0)
    assert shadow.choices[0].message.reasoning == response.choices[0].message.reasoning


def test_the_header_and_the_alias_reach_the_loop(server: Server) -> None:
    budget = server.sdk.chat.completions.create(
        model=f"{MODEL}:drr", messages=MESSAGES, extra_headers={"X-DRR": '{"max_thinking_tokens": 7}'}
    )
    names = {model.id for model in server.sdk.models.list()}
    assert (budget.drr["stop_cause"], budget.drr["thinking_tokens"]) == ("max_thinking_tokens", 7)
    assert {MODEL, f"{MODEL}:drr", f"{MODEL}:full"} <= names


@pytest.mark.parametrize("tokens", [1, 2, 5, 40])
def test_small_max_tokens_still_answer(server: Server, tokens: int) -> None:
    response = server.ask(max_tokens=tokens)
    assert response.usage.completion_tokens <= tokens
    assert response.choices[0].message.content
    assert response.drr["stop_cause"] in ("answer_reserve", "sure")


@pytest.mark.parametrize("tokens", [9, 24, 60])
def test_max_tokens_holds_for_attempts_at_once(server: Server, tokens: int) -> None:
    asked = {"mode": "rethink", "accept": 1.0, "max_rethinks": 3, "parallel": 3, "answer_tokens": 5}
    response = server.ask(max_tokens=tokens, drr=asked)
    assert response.usage.completion_tokens <= tokens
    assert response.choices[0].message.content


def test_a_natural_answer_that_reaches_its_reserve_is_the_same(server: Server, greedy: Any) -> None:
    tokens = greedy.usage.completion_tokens
    for reserve in (1, 4):
        same = server.ask(temperature=0, max_tokens=tokens, drr={**NEVER, "answer_tokens": reserve})
        assert same.choices[0].message == greedy.choices[0].message
        assert (same.choices[0].finish_reason, same.usage) == ("stop", greedy.usage)
    short = server.ask(temperature=0, max_tokens=tokens - 2, drr={**NEVER, "answer_tokens": 3})
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", tokens - 2)
    assert greedy.choices[0].message.content.startswith(short.choices[0].message.content)


def test_a_grammar_holds_for_an_answer_that_begins_before_its_reserve(server: Server, greedy: Any) -> None:
    thinking = greedy.usage.completion_tokens_details.reasoning_tokens
    drr = {**NEVER, "answer_tokens": 38}
    form = {"structured_outputs": {"regex": "either [0-9]{3} or [0-9]{3}"}}
    response = server.ask(temperature=0, max_tokens=thinking + 40, drr=drr, extra_body=form)
    assert re.fullmatch(r"either \d{3} or \d{3}", response.choices[0].message.content)
    assert response.drr["stop_cause"] == "natural"


def test_choices_think_for_themselves(server: Server) -> None:
    asked = {"n": 3, "temperature": 1.6}  # hot enough for different thoughts
    response = server.ask(**asked)
    assert len(response.choices) == len(response.drr["choices"]) == 3
    assert len({choice.message.reasoning for choice in response.choices}) > 1
    thinking = sum(choice["thinking_tokens"] for choice in response.drr["choices"])
    discarded = sum(choice["discarded_tokens"] for choice in response.drr["choices"])
    assert response.usage.completion_tokens_details.reasoning_tokens == thinking + discarded
    streamed: dict[int, str] = {}
    for chunk in server.ask(**asked, stream=True):
        for choice in chunk.choices:
            text = (getattr(choice.delta, "reasoning", None) or "") + (choice.delta.content or "")
            streamed[choice.index] = streamed.get(choice.index, "") + text
    assert streamed == {c.index: c.message.reasoning + c.message.content for c in response.choices}


def test_log_probabilities_cover_every_visible_token(server: Server) -> None:
    response = server.ask(logprobs=True, top_logprobs=2, drr={"threshold": 0.0, "min_steps": 2})
    entries = response.choices[0].logprobs.content
    drr = response.drr
    probed = response.usage.completion_tokens_details.probe_tokens
    assert len(entries) == response.usage.completion_tokens - drr["discarded_tokens"] - probed
    assert all(entry.top_logprobs and entry.logprob > -9999 for entry in entries), "put-in tokens were never sampled"
    assert "".join(entry.token for entry in entries[: drr["thinking_tokens"]]) == response.choices[0].message.reasoning


@pytest.mark.parametrize("threshold", [0.0, 1.0])
def test_stop_strings_cut_the_answer_and_not_the_thinking(server: Server, threshold: float) -> None:
    response = server.ask(stop=["."], drr={"threshold": threshold, "min_steps": 2})
    assert "." in response.choices[0].message.reasoning
    assert "." not in response.choices[0].message.content
    assert response.choices[0].stop_reason == "."


def test_penalties_survive_a_stop_and_min_tokens_ask_for_nothing_behind_it(server: Server) -> None:
    asked: dict[str, Any] = {"drr": {"threshold": 0.0}, "temperature": 0, "frequency_penalty": 0.3}
    plain = server.ask(**asked, presence_penalty=0.3)
    least = server.ask(**asked, presence_penalty=0.3, extra_body={"min_tokens": 60})
    assert plain.drr["stop_cause"] == least.drr["stop_cause"] == "sure"
    assert least.choices[0].message.content == plain.choices[0].message.content
    full = server.ask(temperature=0, drr={"mode": "off"}, extra_body={"min_tokens": 400})
    assert full.usage.completion_tokens >= 400


def test_a_nudge_refuses_the_close(server: Server) -> None:
    response = server.ask(drr={"threshold": 1.0, "nudge": 2}, messages=[{"role": "user", "content": "zzz qqq 7 xxx?"}])
    assert response.drr["nudges"] <= 2
    assert response.choices[0].message.reasoning.count("Wait, let me check.") >= response.drr["nudges"]


@pytest.mark.parametrize(
    ("drr", "param"),
    [
        ({"treshold": 0.9}, "drr.treshold"),
        ({"threshold": 2}, "drr.threshold"),
        ({"mode": "fast"}, "drr.mode"),
        ({"threshold": 0.9, "max_lost_correct": 0.01}, "drr.max_lost_correct"),
        (7, "drr"),
    ],
)
def test_bad_requests_name_the_key(server: Server, drr: Any, param: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        server.ask(drr=drr)
    assert caught.value.status_code == 400
    assert caught.value.body == {**caught.value.body, "param": param, "type": "BadRequestError"}  # type: ignore[dict-item]
    assert param in caught.value.body["message"]  # type: ignore[index]


def test_other_endpoints_refuse_what_they_would_ignore(server: Server) -> None:
    client = server.sdk
    with pytest.raises(openai.BadRequestError, match="drr"):
        client.completions.create(model=MODEL, prompt="x", extra_body={"drr": {}})
    with pytest.raises(openai.BadRequestError, match="X-DRR"):
        client.completions.create(model=MODEL, prompt="x", extra_headers={"X-DRR": "{}"})
    endless = {"ignore_eos": True}  # three tokens may be the whole answer otherwise
    assert (
        client.completions.create(model=MODEL, prompt="x", max_tokens=3, extra_body=endless).choices[0].finish_reason
        == "length"
    )


def test_metrics_stand_beside_vllms_own(server: Server) -> None:
    before = server.metric("drr_responses_total")
    server.ask(drr={"threshold": 0.0, "min_steps": 2})
    assert server.metric("drr_responses_total") == before + 1
    assert server.metric("drr_dm_up") == 1
    assert server.metric("drr_tokens_total") > 0
    assert server.metric("vllm:generation_tokens_total") > 0


def test_a_certified_risk_is_honoured(server: Server) -> None:
    response = server.ask(drr={"max_lost_correct": 0.05})
    risk, settings = response.drr["risk"], response.drr["settings"]
    assert (risk["max_lost_correct"], risk["confidence"], risk["holds"]) == (0.05, 0.95, True)
    assert risk["certified"] <= 0.05
    certificates = DmCard.load(SERVED_DM).calibration["certificates"]  # type: ignore[index]
    rule = next(own["rule"] for own in certificates if own["max_lost_correct"] == risk["certified"])
    assert {name: settings[name] for name in rule} == rule
    hotter = server.ask(drr={"max_lost_correct": 0.05}, temperature=1.2)
    assert hotter.drr["risk"]["broken_by"] == ["temperature"]


def test_a_risk_without_a_certificate_thinks_in_full_or_is_refused(server: Server, greedy: Any) -> None:
    response = server.ask(drr={"max_lost_correct": 1e-6}, temperature=0)
    assert response.drr["stop_cause"] == "uncertified"
    assert response.choices[0].message == greedy.choices[0].message
    with pytest.raises(openai.BadRequestError, match="certified risks") as caught:
        server.ask(drr={"mode": "stop", "max_lost_correct": 1e-6})
    assert caught.value.param == "drr.max_lost_correct"


def test_first_scores_are_counted_for_drift(server: Server) -> None:
    before = server.metric("drr_dm_first_scores_total")
    server.ask(drr={"mode": "shadow"})
    server.ask(drr={"mode": "off"})
    assert server.metric("drr_dm_first_scores_total") == before + 1


async def test_served_scores_are_those_of_the_behaviour_records(server: Server, tmp_path: Path) -> None:
    """Same tokens, same features, same probabilities: a record made through the server, and live traffic."""
    asked = questions(8, Split.VALIDATION, 3)
    config = DistillConfig(rollouts=2, extra_rollouts=0, seed=5)
    folder = str(reference.reasoner_folder())
    async with open_server(f"{server.url}/v1", MODEL, folder) as reasoner:
        await distill(reasoner, asked, tmp_path, config)
    rollouts = read_rollouts(tmp_path)
    assert len(rollouts) == 6
    card = DmCard.load(SERVED_DM)
    states = read_states(tmp_path, Manifest.load(tmp_path), folder)
    data = Judge(card.kind, SERVED_DM, card.max_tokens, states).boundaries(rollouts)
    assert data.featured.all()
    recorded = by_rollout(probabilities(load_dm_head(SERVED_DM), data), data, len(rollouts))
    same = 0
    for rollout, expected in zip(rollouts, recorded, strict=True):
        seed = draw_seed(config.seed, rollout.question, f"{rollout.sample}")
        message: Any = [{"role": "user", "content": rollout.question}]
        response = await asyncio.to_thread(
            functools.partial(server.ask, messages=message, seed=seed, max_tokens=1024, drr={"mode": "shadow"})
        )
        if response.choices[0].message.reasoning != "".join(rollout.steps):
            continue  # other requests in the batch can tip a token whose probability is nearly another's
        same += 1
        live = [(step["p_now"], step["p_later"]) for step in response.drr["steps"]]
        assert np.allclose(live, expected, atol=2e-3)
        assert [step["tokens"] for step in response.drr["steps"]] == rollout.step_tokens
    assert same >= 5


async def test_strategies_are_compared_through_a_server(server: Server, tmp_path: Path) -> None:
    """What is found greedily is what a client gets that lets the model think in full."""
    asked = questions(8, Split.VALIDATION, 3)
    config = EvalConfig(max_tokens=1024, answer_tokens=256)
    wanted = [one for one in all_strategies(["logprob"], {}, (2,)) if one.name in ("greedy", "judged by logprob")]
    async with open_server(f"{server.url}/v1", MODEL, str(reference.reasoner_folder())) as reasoner:
        with Grading("auto") as grading:
            evaluator = Evaluator(reasoner, dict(training_free()), grading, config)
            await evaluate(evaluator, wanted, asked, tmp_path, {})
    found = {one.name: one.rows for one in read_outcomes(tmp_path)}
    for question, row in zip(asked, found["greedy"], strict=True):
        message: Any = [{"role": "user", "content": question.text}]
        ask = functools.partial(server.ask, messages=message, temperature=0, max_tokens=1024, drr={"mode": "off"})
        response = await asyncio.to_thread(ask)
        assert row.answer in response.choices[0].message.content
        assert row.tokens == response.usage.completion_tokens
    assert all(0 < row.p_now < 1 and not row.unscored for row in found["judged by logprob"])


@pytest.mark.slow
def test_the_command_compares_strategies_through_a_server(server: Server, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "drr.cli", "eval", "reference:test", "--limit", "4", "--attempts", "2"]
    command += ["--max-tokens", "300", "--answer-tokens", "64", "--strategy", "greedy", "--scorer", "logprob"]
    command += ["--server", f"{server.url}/v1", "--tokenizer", str(reference.reasoner_folder())]
    made = subprocess.run([*command, "--out", str(tmp_path)], capture_output=True, text=True, check=True)
    assert "greedy" in made.stdout
    assert {one.name for one in read_outcomes(tmp_path)} == {"full thinking", "greedy"}


async def test_disconnected_clients_leave_nothing_running(server: Server) -> None:
    rng = random.Random(0)

    async def vanish(client: httpx.AsyncClient, streaming: bool) -> None:
        body = {"model": MODEL, "messages": MESSAGES, "stream": streaming, "temperature": 1.5}
        try:
            async with asyncio.timeout(rng.uniform(0.01, 1.5)):
                async with client.stream("POST", f"{server.url}/v1/chat/completions", json=body) as response:
                    async for _ in response.aiter_raw():
                        pass
        except (TimeoutError, httpx.TransportError):
            pass

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=None), timeout=60) as client:
        await asyncio.gather(*(vanish(client, index % 2 == 0) for index in range(200)))
    left = -1.0
    for _ in range(60):
        await asyncio.sleep(0.5)
        states = ("running", "waiting")
        left = sum([await asyncio.to_thread(server.metric, f"vllm:num_requests_{state}") for state in states])
        if left == 0:
            break
    assert left == 0


def fused_dm(folder: Path) -> Path:
    """The shipped text DM and head in one; what fuses them reads the text as the text DM does, and no state."""
    folder.mkdir()
    text = reference.dm_folder("text")
    card = replace(DmCard.load(text), kind="fused", classifier=str(text), calibration=None)
    card.save(folder)
    shutil.copyfile(reference.dm_folder("head") / STATE_HEAD_NAME, folder / STATE_HEAD_NAME)
    head = load_dm_head(text)
    unread = {name: np.insert(getattr(head, name), [2, 2], value, axis=-1) for name, value in _UNREAD.items()}
    save_head(replace(head, kind="fused", **unread), folder / HEAD_NAME)
    return folder


_UNREAD = {"mean": 0.0, "scale": 1.0, "hidden": 0.0, "judge_weight": 0.0}


async def test_answers_outlive_the_classifier_of_a_fused_dm(tmp_path: Path) -> None:
    pair = ("--model", str(reference.reasoner_folder()), "--dm", str(fused_dm(tmp_path / "fused")))
    server = await asyncio.to_thread(start, tmp_path / "log", *pair, "--served-model-name", MODEL)
    try:
        judged = await asyncio.to_thread(functools.partial(server.ask, drr={"mode": "shadow"}))
        assert judged.drr["judge"]["failed"] == 0
        assert all(step["p_now"] is not None for step in judged.drr["steps"])
        children = psutil.Process(server.process.pid).children(recursive=True)
        engines = sorted((c for c in children if "EngineCore" in " ".join(c.cmdline())), key=lambda c: c.create_time())
        assert len(engines) == 2, "the DM's engine is started first, then the Reasoner's"
        asked = {"model": MODEL, "messages": MESSAGES, "drr": {"threshold": 1.0}}
        async with httpx.AsyncClient(timeout=120) as client:
            tasks = [
                asyncio.create_task(client.post(f"{server.url}/v1/chat/completions", json={**asked, "seed": seed}))
                for seed in range(16)
            ]
            await asyncio.sleep(0.25)
            os.kill(engines[0].pid, signal.SIGKILL)
            responses = [(await task).json() for task in tasks]
            health = await client.get(f"{server.url}/health")
            later = (await client.post(f"{server.url}/v1/chat/completions", json=asked)).json()
        for response in responses:
            assert response["choices"][0]["message"]["content"].strip()
            assert response["drr"]["stop_cause"] == "judge_unavailable"
        assert later["drr"]["stop_cause"] == "judge_unavailable"
        assert (health.status_code, health.json()) == (200, {"status": "degraded", "reasoner": "ok", "dm": "dead"})
        assert server.metric("drr_dm_up") == 0
        assert server.log.read_text().count("The DM's engine is gone") == 1
    finally:
        await asyncio.to_thread(stop, server)


LOGPROB_CALIBRATION = Calibration(
    confidence=0.95,
    source="key",
    labels="gold",
    questions={"test": 500},
    right=400,
    sampling={"temperature": 0.8},
    certificates=(Certificate(0.05, Rule(0.75, 1), 9, 400, 0.01, 0.4, -0.2),),
    refused={},
    drift={"edges": [0.5], "shares": [0.5, 0.5]},
    default={"rule": Rule(0.9).to_json()},
).to_json()


def test_without_a_dm_it_is_a_plain_server_with_budgets(tmp_path: Path) -> None:
    calibrations = tmp_path / "calibrations"
    certified = ScorerCard("logprob", fingerprint(reference.reasoner_folder()), "r", "blank_line", LOGPROB_CALIBRATION)
    certified.save(calibrations)
    arguments = ["--model", str(reference.reasoner_folder()), "--served-model-name", MODEL]
    tools = ("--enable-auto-tool-choice", "--tool-call-parser", "hermes")
    server = start(tmp_path / "log", *arguments, "--drr-calibration", str(calibrations), *tools)
    try:
        assert server.ask().drr["stop_cause"] == "off"
        sure = server.ask(drr={"scorer": "logprob", "max_lost_correct": 0.05})
        assert (sure.drr["settings"]["threshold"], sure.drr["risk"]["certified"]) == (0.75, 0.05)
        assert sure.drr["risk"]["holds"] is True
        assert sure.drr["stop_cause"] == "sure"
        budget = server.ask(drr={"max_thinking_tokens": 9})
        assert (budget.drr["stop_cause"], budget.drr["thinking_tokens"]) == ("max_thinking_tokens", 9)
        assert budget.drr["judge"] is None
        with pytest.raises(openai.BadRequestError, match="started without a DM"):
            server.ask(drr={"threshold": 0.5})
        probed = server.ask(drr={"scorer": "answer_probe", "threshold": 0.5})
        assert (probed.drr["stop_cause"], probed.drr["settings"]["scorer"]) == ("sure", "answer_probe")
        assert probed.drr["probe_tokens"] > 0
        refused = server.ask(
            drr={"scorer": "logprob", "on_exhausted": "abstain", "accept": 1.0, "threshold": 1.0},
            tools=[{"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}}],
            tool_choice="required",
        ).choices[0]
        assert (refused.finish_reason, refused.message.tool_calls, refused.message.content) == ("stop", None, None)
        assert refused.message.refusal, "an abstention is no tool call, even where one is required"
        assert httpx.get(f"{server.url}/health").json()["dm"] == "none"
    finally:
        assert stop(server) == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--dm", "/nowhere"], "--dm: there is no folder /nowhere"),
        (["--drr-calibration", "/nowhere"], "--drr-calibration: there is no folder /nowhere"),
        (["--prm", str(reference.dm_folder())], "--prm: "),
        (["--drr-step-rule", "paragraph"], "--drr-step-rule: step rule 'paragraph'"),
        (["--reasoning-parser", "bogus"], "--reasoning-parser: vLLM knows no 'bogus'"),
        (["--reasoning-parser", "mistral"], "--reasoning-parser: mistral does not fit this Reasoner"),
        (
            ["--reasoning-parser", "hunyuan_a13b", "--drr-scorer", "logprob"],
            "--reasoning-parser: hunyuan_a13b does not",
        ),
        (
            ["--dm", str(reference.dm_folder()), "--drr-step-rule", "sentence"],
            "DM drr-reference-dm was trained on steps",
        ),
    ],
)
def test_a_bad_start_says_why(arguments: list[str], message: str) -> None:
    served = ["--port", "0", "--model", str(reference.reasoner_folder())]  # port 8000 may be taken
    command = [sys.executable, "-m", "drr.cli", "serve", *served, *arguments]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode in (1, 2), "2 for what is known before vLLM is imported"
    assert f"drr serve: {message}" in result.stderr
    assert "Traceback" not in result.stderr
