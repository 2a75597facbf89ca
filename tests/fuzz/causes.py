"""What is wrong with the cause that is given for the end of thinking, with its steps, and with what comes of it."""

import json
import re
from collections.abc import Iterator
from typing import Any

from tests.fuzz.asking import Answer, Choice
from tests.fuzz.counts import Account, answering
from tests.fuzz.draw import REGEX, Drawn

_ROUNDED = 1e-4
"""Scores are told with four digits."""

_BY_JUDGE = {"sure": ("auto", "stop"), "no_gain": ("auto", "stop"), "hopeless": ("auto", "stop", "rethink")}
_NEVER_HERE = ("tool_call", "stop_string", "judge_unavailable")
"""Causes that a Reasoner with marker tokens, whose DM lives, cannot have."""


def wrong_settings(drawn: Drawn, account: Account) -> Iterator[str]:
    """Keys that were accepted and not kept."""
    settings = account["settings"]
    for key, value in drawn.keys.items():
        if settings.get(key) != value:
            yield f"{key} was asked to be {value!r} and is {settings.get(key)!r}"
    for suffix, mode in ((":drr", "auto"), (":full", "off")):
        if str(drawn.body["model"]).endswith(suffix) and settings["mode"] != mode:
            yield f"mode {settings['mode']} of {drawn.body['model']}"
    if (account["risk"] is None) is not (settings["max_lost_correct"] is None):
        yield "a risk is told of that nobody asked for, or not told of"
    if account["risk"] is not None and account["risk"]["holds"] is bool(account["risk"]["broken_by"]):
        yield f"a promise that holds and is broken: {account['risk']}"
    if (account["judge"] is None) is not (settings["scorer"] is None):
        yield f"scorer {settings['scorer']}, judge {account['judge']}"


def wrong_cause(drawn: Drawn, choice: Choice, account: Account) -> Iterator[str]:
    """A cause that contradicts what happened."""
    cause, settings, mode = account["stop_cause"], account["settings"], account["settings"]["mode"]
    thought, single = account["thinking_tokens"], settings["accept"] is None
    if thought is None:
        return
    if cause in _NEVER_HERE:
        yield f"{cause} cannot be here"
    if cause in _BY_JUDGE and mode not in _BY_JUDGE[cause]:
        yield f"{cause} in mode {mode}"
    if cause in ("max_thinking_tokens", "thinking_token_budget"):
        budget = settings[cause]
        if budget is None or (single and account["nudges"] == settings["nudge"] == 0 and thought != budget):
            yield f"{cause} {budget} with {thought} thinking tokens"
    for name in ("max_thinking_tokens", "thinking_token_budget"):
        if settings[name] is not None and thought > settings[name]:
            yield f"{thought} thinking tokens with {name} {settings[name]}"
    if (cause == "uncertified") and (settings["max_lost_correct"] is None or account["risk"]["certified"] is not None):
        yield "uncertified without a risk that nobody has certified"
    limited = any(settings[name] is not None for name in ("max_thinking_tokens", "max_steps", "thinking_token_budget"))
    if cause == "off" and (settings["scorer"] is not None or limited):
        yield f"off, and judged or limited: {settings}"
    if cause == "natural" and settings["scorer"] is None and not limited:
        yield "natural where nobody judged and nothing limited the thinking"
    if cause == "no_thinking" and (thought or (choice.reasoning and single)):
        yield f"no_thinking with {thought} thinking tokens: {choice.reasoning[:80]!r}"
    if cause == "max_tokens" and (choice.finish_reason != "length" or account["answer_tokens"]):
        yield f"max_tokens with {account['answer_tokens']} answer tokens, finish_reason {choice.finish_reason}"
    if account["nudges"] > settings["nudge"] * account["attempts"]:
        yield f"{account['nudges']} nudges of {settings['nudge']}"


def wrong_end(drawn: Drawn, choice: Choice, account: Account) -> Iterator[str]:
    """An end that does not fit what the client sees."""
    cause, settings, body = account["stop_cause"], account["settings"], drawn.body
    if body.get("use_beam_search"):
        return  # vLLM's own, which looks at no stop text
    if choice.finish_reason not in ("stop", "length", "tool_calls"):
        yield f"finish_reason {choice.finish_reason}"
    if cause == "abstained":
        if (
            choice.content
            or choice.tool_calls
            or choice.finish_reason != "stop"
            or choice.refusal != settings["refusal"]
        ):
            yield f"abstained with {choice.text}"
    elif choice.refusal is not None:
        yield f"a refusal without an abstention: {choice.text}"
    if settings["thinking_in"] == "content" and choice.reasoning and settings["accept"] is None:
        yield f"reasoning although thinking is in content: {choice.reasoning[:80]!r}"
    stops = body.get("stop") or []
    stops = [stops] if isinstance(stops, str) else stops
    if choice.stop_reason is not None and choice.stop_reason not in stops:
        yield f"stop_reason {choice.stop_reason!r} of {stops}"
    answered = choice.content or ""
    if settings["thinking_in"] == "reasoning" and not body.get("include_stop_str_in_output"):
        # The blank before an answer is not searched for a stop text that begins with one.
        found = [stop for stop in stops if stop in (answered.lstrip() if stop[:1].isspace() else answered)]
        if found and not body.get("min_tokens"):
            yield f"{found} in the answer {answered!r}"
    if body.get("structured_outputs") == {"regex": REGEX} and settings["thinking_in"] == "reasoning" and answered:
        whole = choice.finish_reason == "stop" and choice.stop_reason is None
        if whole and not re.fullmatch(REGEX, answered) and not body.get("ignore_eos"):
            yield f"the answer does not fit the grammar: {answered!r}"


def wrong_steps(account: Account) -> Iterator[str]:
    """Steps that contradict each other, the thinking, or the cause."""
    steps, settings, cause = account.get("steps"), account["settings"], account["stop_cause"]
    if steps is None or account["thinking_tokens"] is None:
        return
    details = account.get("attempt_details") or [account]
    for number in {step["attempt"] for step in steps}:
        own = [step for step in steps if step["attempt"] == number]
        if [step["index"] for step in own] != list(range(len(own))):
            yield f"steps of attempt {number} are not in order"
        thought = details[number]["thinking_tokens"] + account["injected_tokens"]  # a nudge's cue is part of a step
        if sum(step["tokens"] for step in own) > thought and details[number].get("fate") != "abandoned":
            yield f"steps of {sum(step['tokens'] for step in own)} tokens in a thinking of {thought}"
        acts = settings["mode"] not in ("shadow", "off")
        early = [step for step in own[:-1] if step["verdict"] in ("stop", "rethink")]
        if acts and early:
            yield f"attempt {number} went on behind a verdict to end: {early}"
    for step in steps:
        if any(step[name] is not None and not 0 <= step[name] <= 1 for name in ("p_now", "p_later")):
            yield f"no probability: {step}"
    last = [step for step in steps if step["attempt"] == answering(account)][-1:]
    if last:
        yield from _wrong_last(account, last[0])
    elif cause in _BY_JUDGE and answering(account) is not None:
        yield f"{cause} without a step"
    judge = account["judge"]
    if judge is not None:
        timed = [step for step in steps if step["ms"] is not None]
        late = sum(step["late"] for step in steps)
        if judge["decisions"] != len(timed) or judge["failed"] or late != judge["late"]:
            yield f"{len(timed)} timed and {late} late steps, but {judge}"
    most = settings["max_steps"]
    if most is not None and settings["accept"] is None and len(steps) > most + settings["nudge"]:
        yield f"{len(steps)} steps with max_steps {most}"


def _wrong_last(account: Account, last: dict[str, Any]) -> Iterator[str]:
    """A last step of the attempt that answers which does not bear the cause out."""
    settings, cause = account["settings"], account["stop_cause"]
    now, later = last["p_now"], last["p_later"]
    holds = {
        "sure": lambda: now >= settings["threshold"] - _ROUNDED,
        "hopeless": lambda: later <= settings["hopeless"] + _ROUNDED,
        "no_gain": lambda: later - now <= settings["min_gain"] + 2 * _ROUNDED,
        "max_steps": lambda: settings["accept"] is not None or last["index"] + 1 >= settings["max_steps"],
    }
    if cause in holds and (last["verdict"] != "stop" or not holds[cause]()):
        yield f"{cause} with the last step {last} and {settings}"
    acts = settings["mode"] not in ("shadow", "off")
    if acts and last["verdict"] == "stop" and cause not in holds:
        yield f"{cause} although the last verdict is to stop"


def wrong_header(answer: Answer) -> Iterator[str]:
    """A short account in the headers that says something else than the long one."""
    header = answer.outcome_header
    if header is None:
        yield "no X-DRR-Outcome"
        return
    said = dict(part.split("=", 1) for part in re.findall(r'[a-z]+=(?:"(?:\\.|[^"\\])*"|\([^)]*\)|[^,]+)', header))
    accounts, settings = answer.accounts, None if answer.drr is None else answer.drr["settings"]
    if answer.streamed:
        if said.get("account") != "last-chunk" or (settings is not None and said["mode"] != settings["mode"]):
            yield f"X-DRR-Outcome {header} of {settings}"
        return
    counts = [int(said[name]) for name in ("thinking", "answer", "discarded", "probe") if name in said]
    if counts and sum(counts) != answer.usages[-1]["completion_tokens"]:
        yield f"X-DRR-Outcome {header} with {answer.usages[-1]['completion_tokens']} completion_tokens"
    if settings is None:
        return
    causes = [account["stop_cause"] for account in accounts]
    expected = {"cause": causes[0] if len(causes) == 1 else f"({' '.join(causes)})", "mode": settings["mode"]}
    expected["attempts"] = str(sum(account["attempts"] for account in accounts))
    for name in ("thinking", "answer", "discarded", "probe"):
        if accounts[0][f"{name}_tokens"] is not None:
            expected[name] = str(sum(account[f"{name}_tokens"] for account in accounts))
    if accounts[0]["judge"] is not None:
        expected["judge"] = json.dumps(accounts[0]["judge"]["id"])
    if accounts[0]["risk"] is not None:
        expected["holds"] = f"?{int(all(account['risk']['holds'] for account in accounts))}"
    if {name: said.get(name) for name in expected} != expected:
        yield f"X-DRR-Outcome {header}, the body says {expected}"
