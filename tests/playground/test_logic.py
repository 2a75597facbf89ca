"""The page's own logic, run by Node beside the project's: verdicts, and which text belongs to which step."""

import ast
import json
import random
import subprocess
from pathlib import Path
from typing import Any

from drr.cli.chat.steps import ClosedStep, StepTexts
from drr.cli.chat.stream import Event
from drr.loop.policy import PolicySettings, Score, Verdict, decide
from tests.playground.browsing import node
from tests.playground.scripted import examples

STATIC = Path(__file__).parents[2] / "server" / "playground" / "static"


def in_node(program: str, given: Any) -> Any:
    """What a program makes of `given`: it may use `policy`, `trace` and `given`, and returns JSON."""
    modules = "".join(
        f"import * as {name} from {json.dumps((STATIC / f'{name}.js').as_uri())};\n"
        for name in ("policy", "trace", "snippets")
    )
    source = (
        f"{modules}let text = ''; for await (const part of process.stdin) text += part;\n"
        f"const given = JSON.parse(text);\nconsole.log(JSON.stringify((() => {{ {program} }})()));"
    )
    command = [node(), "--input-type=module", "--eval", source]
    result = subprocess.run(command, input=json.dumps(given), capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    return json.loads(result.stdout)


def rule_of(settings: PolicySettings) -> dict[str, Any]:
    names = (
        "threshold",
        "hopeless",
        "min_gain",
        "accept",
        "patience",
        "min_steps",
        "max_steps",
        "nudge",
        "nudge_below",
    )
    return {name: getattr(settings, name) for name in names}


def first_end(settings: PolicySettings, steps: list[dict[str, Any]], closed: bool) -> dict[str, Any] | None:
    """Where `decide` ends the thinking of an attempt."""
    scores: list[Score | None] = []
    nudges = 0
    for index, step in enumerate(steps):
        scores.append(None if step["p_now"] is None else Score(step["p_now"], step["p_later"]))
        closing = step["verdict"] == "nudge" or (closed and index == len(steps) - 1)
        decision = decide(settings, scores, closing=closing, nudges=nudges)
        if decision.verdict is Verdict.NUDGE:
            nudges += 1
        elif decision.verdict is not Verdict.CONTINUE:
            cause = None if decision.cause is None else decision.cause.value
            return {"index": index, "verdict": decision.verdict.value, "cause": cause}
        elif step["verdict"] == "nudge":
            return {"index": index, "verdict": "close", "cause": "natural"}
    return None


def some_settings(chance: random.Random) -> PolicySettings:
    def maybe(value: float) -> float | None:
        return value if chance.random() < 0.6 else None

    return PolicySettings(
        threshold=maybe(chance.choice([0.3, 0.5, 0.86, 0.9])),
        hopeless=maybe(chance.choice([0.05, 0.3])),
        min_gain=maybe(chance.choice([-0.1, 0.0, 0.2])),
        accept=maybe(0.5),
        patience=chance.randint(1, 3),
        min_steps=chance.randint(0, 3),
        max_steps=int(chance.randint(1, 12)) if chance.random() < 0.4 else None,
        nudge=chance.randint(0, 2),
        nudge_below=chance.choice([0.2, 0.5]),
    )


def some_steps(chance: random.Random) -> list[dict[str, Any]]:
    grid = [0.0, 0.05, 0.2, 0.3, 0.5, 0.7, 0.86, 0.9, 1.0]
    steps: list[dict[str, Any]] = []
    for _ in range(chance.randint(1, 12)):
        p_now = chance.choice(grid)
        verdict = "nudge" if chance.random() < 0.1 else "continue"
        steps.append({"p_now": p_now, "p_later": chance.choice([p_now, *grid]), "verdict": verdict})
        if chance.random() < 0.1:
            steps[-1] |= {"p_now": None, "p_later": None}
    return steps


def test_the_pages_verdicts_are_the_loops() -> None:
    chance = random.Random(5)
    cases = [(some_settings(chance), some_steps(chance), chance.random() < 0.5) for _ in range(3000)]
    given = [{"rule": rule_of(settings), "steps": steps, "closed": closed} for settings, steps, closed in cases]
    found = in_node("return given.map(({rule, steps, closed}) => policy.firstEnd(rule, steps, closed))", given)
    wanted = [first_end(*case) for case in cases]
    assert found == wanted
    causes = {(end or {}).get("cause") for end in wanted}
    assert {"sure", "hopeless", "no_gain", "max_steps", "natural", None} <= causes, "cases that show something"


def test_recorded_thinking_is_replayed_to_the_verdicts_that_it_got() -> None:
    """The recorded rule, on the scores of full thinking, ends where the server ended it."""
    compared = 0
    for trace in examples():
        drr, full = trace["runs"]
        (account,) = [value for _, kind, value in drr["events"] if kind == "account"]
        if account["attempts"] > 1:
            continue
        given = {
            "settings": account["settings"],
            "steps": [value for _, kind, value in full["events"] if kind == "step"],
        }
        end = in_node("return policy.firstEnd(policy.ruleOf(given.settings), given.steps, true)", given)
        stopped = [value for _, kind, value in drr["events"] if kind == "step" and value["verdict"] == "stop"]
        assert (end is None) == (not stopped), trace["title"]
        if stopped:
            assert (end["index"], end["cause"]) == (stopped[0]["index"], account["stop_cause"])
            compared += 1
    assert compared >= 3


def texts_of(run: dict[str, Any]) -> list[str]:
    """The steps' texts as `drr chat` shows them, all attempts one behind the other."""
    steps, closed = StepTexts(), list[ClosedStep]()
    for event in (Event(*event) for event in run["events"]):
        if event.kind == "step":
            closed += steps.add_step(event.value)
        if event.kind == "reasoning":
            first, *others = event.value.split("\n\n[this attempt was rejected; here is another]\n\n")
            closed += steps.add_text(first)
            for other in others:
                closed += steps.finish()
                steps.open = ""
                closed += steps.add_text(other)
    return [step.text for step in [*closed, *steps.finish()]]


def test_texts_go_to_the_steps_that_they_belong_to() -> None:
    runs = [run for trace in examples() for run in trace["runs"]]
    found = in_node(
        "return given.map((run) => trace.runOf(run).attempts.flatMap((a) => a.steps.map((s) => s.text)))", runs
    )
    for run, texts in zip(runs, found, strict=True):
        assert texts == texts_of(run)
        closed_by_itself = 1  # the last step ends with the thinking, without a blank line perhaps
        assert all(
            text.endswith("\n\n") and text.strip().count("\n\n") == 0 for text in texts[:-closed_by_itself] if text
        )
        assert texts[0].strip()


def test_the_text_of_attempts_at_the_same_time_is_that_of_the_one_that_answers() -> None:
    """They tell their steps as they come, and the winner's text comes at the end."""

    def step(attempt: int, index: int) -> list[Any]:
        return [1, "step", {"attempt": attempt, "index": index, "tokens": 5, "p_now": 0.5, "p_later": 0.5}]

    details = [{"fate": "abandoned", "thinking_tokens": 5}, {"fate": "accepted", "thinking_tokens": 10}]
    account = {"stop_cause": "natural", "settings": {"parallel": 2}, "attempts": 2, "attempt_details": details}
    told = [[2, "reasoning", "One.\n\nTwo."], [3, "content", "2"], [4, "account", account]]
    events = [step(0, 0), step(1, 0), step(1, 1), *told]
    run = {"name": "drr", "request": {}, "step_rule": "blank_line", "events": events}
    program = "return trace.runOf(given).attempts.map((attempt) => attempt.steps.map((step) => step.text))"
    assert in_node(program, run) == [[""], ["One.\n\n", "Two."]]


def test_a_trace_comes_back_as_it_was() -> None:
    traces = examples()
    program = """return given.map((one) => {
      const again = trace.parseTrace(JSON.stringify(trace.traceOf(one.question, one.runs.map(trace.runOf))));
      return again.runs;
    })"""
    assert in_node(program, traces) == [trace["runs"] for trace in traces]


def test_what_is_no_trace_is_refused_in_words() -> None:
    good = examples()[0]
    event = [0, "step", {"tokens": "many"}]
    bad = [
        "{",
        "[]",
        json.dumps({**good, "version": 2}),
        json.dumps({**good, "runs": []}),
        json.dumps({**good, "runs": [{**good["runs"][0], "events": [event]}]}),
        json.dumps({**good, "runs": [{**good["runs"][0], "events": [[0, "reasoning", 5]]}]}),
        json.dumps({**good, "runs": [{**good["runs"][0], "events": [[0, "step", {"tokens": 1, "attempt": 10**9}]]}]}),
    ]
    program = (
        "return given.map((text) => { try { trace.parseTrace(text); return null; } catch (e) { return e.message; } })"
    )
    found = in_node(program, bad)
    assert all(found), found
    assert found[0] == "This file is not JSON."


def test_code_says_what_was_asked_and_never_the_key() -> None:
    question = 'It\'s "3+4"?\n$HOME `x` \\ </script>'
    body = {
        "model": "m",
        "messages": [{"role": "user", "content": question}],
        "stream": True,
        "drr": {"threshold": 0.9},
    }
    given = {"base": "http://h/v1", "body": body, "hasKey": True}
    program = "return ['curl', 'python', 'javascript'].map((language) => snippets.snippet(language, given))"
    curl, python, javascript = in_node(program, given)
    assert "DRR_API_KEY" in curl
    assert "DRR_API_KEY" in python
    assert "DRR_API_KEY" in javascript
    shown = subprocess.run(
        ["bash", "-c", f'curl() {{ printf "%s" "${{@: -1}}"; }}\n{curl}'], capture_output=True, text=True, check=True
    )
    assert json.loads(shown.stdout) == body
    literals = [node.value for node in ast.walk(ast.parse(python)) if isinstance(node, ast.Constant)]
    assert question in literals
    checked = subprocess.run(
        [node(), "--input-type=module", "--check"], input=javascript, capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stderr
