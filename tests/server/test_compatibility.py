"""What works with each reasoning parser of vLLM's: stops, budgets, nudges, tool calls, structured output.

Played in the ids of real tokenizers, as in test_real_tokenizers.py, of which this is the summary:
`python -m tests.server.compatibility` runs these tests and writes the table of docs/your-model.md.
"""

import json
from pathlib import Path
from typing import Any

import pytest

from drr.loop.formats import Channels, MarkerTokens, PlainChain, TextMarkers
from drr.loop.policy import StopCause
from tests.server.compatibility import COLUMNS, PAGE, RECORD, table, vllm_version
from tests.server.test_real_tokenizers import (
    ANSWER,
    CALL,
    CALLED,
    CASES,
    FOLDER,
    FORCED,
    KEPT,
    THINKING,
    TOOLS,
    Case,
    arguments_of,
    drr_cue,
    play,
)

__all__ = ["play"]  # a fixture

ROOT = Path(__file__).parents[2]

with_tokenizers = pytest.mark.skipif(
    FOLDER is None, reason="no folder shared/tokenizers with real tokenizers was found"
)
recorded_once = pytest.mark.skipif(not RECORD.exists(), reason="not recorded: python -m tests.server.compatibility")
every_case = pytest.mark.parametrize("case", CASES)
slow = pytest.mark.slow  # there are hundreds; test_real_tokenizers.py tries the same mechanisms in every run

DEEPSEEKS_CALL = (
    "<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>function<｜tool▁sep｜>count\n```json\n"  # noqa: RUF001
    + json.dumps(CALLED[0][1])
    + "\n```<｜tool▁call▁end｜><｜tool▁calls▁end｜>"  # noqa: RUF001
)
HARMONYS_NEXT = "<|end|><|start|>assistant"
HARMONYS_CALL = (
    f"<|channel|>commentary to=functions.count <|constrain|>json<|message|>{json.dumps(CALLED[0][1])}<|call|>"
)

OBJECT = {"type": "object", "properties": {"apples": {"type": "integer"}}}
JSON_ANSWER = '{"apples": 36}'


@pytest.fixture(autouse=True)
def _kind(request: pytest.FixtureRequest) -> None:
    """The report of the tests says how a case marks its thinking."""
    if "case" in request.fixturenames:
        request.node.user_properties.append(("kind", request.getfixturevalue("case").form.kind))


def thinking_of(case: Case, text: str) -> str:
    """What a client sees of this thinking."""
    return (case.lead if isinstance(case.form, MarkerTokens | TextMarkers) else "") + text


@slow
@with_tokenizers
@every_case
async def test_stop(case: Case, play: Any) -> None:
    shown, script = await play(case, case.prompt(), case.turn(), case.ended(FORCED), scores=(0.95,))
    assert shown.outcome.stop_cause is StopCause.SURE
    assert len(script.asked) == 2
    if isinstance(case.form, PlainChain):
        assert (shown.reasoning, shown.content) == ("", KEPT + drr_cue(case) + FORCED)
    else:
        assert (shown.reasoning, shown.content) == (thinking_of(case, KEPT), FORCED)


@slow
@with_tokenizers
@every_case
async def test_budget(case: Case, play: Any) -> None:
    asked = {"mode": "off", "max_thinking_tokens": 4}
    shown, _ = await play(case, case.prompt(), case.turn(), case.ended(FORCED), drr=asked)
    assert shown.outcome.stop_cause is StopCause.MAX_THINKING_TOKENS
    assert shown.outcome.thinking_tokens == 4
    assert shown.content.endswith(FORCED)


@slow
@with_tokenizers
@every_case
async def test_nudge(case: Case, play: Any) -> None:
    """The first close is refused; what the Reasoner thinks behind the cue is thinking, and its answer the answer."""
    if isinstance(case.form, PlainChain):
        more = case.ended("That is right." + ANSWER)
    else:
        more = case.ended("That is right." + case.closing + ANSWER)
    shown, script = await play(
        case, case.prompt(), case.turn(), more, drr={"nudge": 1, "nudge_below": 0.5}, scores=(0.1, 0.1, 0.1)
    )
    assert shown.outcome.nudges == 1
    assert len(script.asked) >= 2
    assert "That is right." in shown.reasoning + shown.content
    if not isinstance(case.form, PlainChain):
        # Where the marker is text, its first token may hold the last full stop as well, and goes with it.
        assert shown.reasoning.startswith(thinking_of(case, THINKING.removesuffix(".")))
        assert shown.reasoning.endswith("That is right.")
        assert shown.content == ANSWER


@slow
@with_tokenizers
@every_case
async def test_tool(case: Case, play: Any) -> None:
    """A tool call behind thinking that ended by itself reaches the tool parser whole."""
    parser, call = tool_call_of(case)
    if isinstance(case.form, Channels):
        turn = case.ids(case.opening + THINKING + HARMONYS_NEXT + call)
    else:
        turn = case.turn(answer=call)
    shown, _ = await play(case, case.prompt(), turn, tool_parser=parser, tools=TOOLS)
    assert arguments_of(shown) == CALLED


@slow
@with_tokenizers
@every_case
async def test_tool_behind_a_stop(case: Case, play: Any) -> None:
    parser, call = tool_call_of(case)
    if isinstance(case.form, Channels):
        pytest.skip("a stop leads gpt-oss into its final channel, where it answers in words")
    if isinstance(case.form, PlainChain):
        pytest.skip("a stop puts an answer cue behind a plain chain of thought, which is answered in words")
    shown, _ = await play(
        case, case.prompt(), case.turn(), case.ended(call), tool_parser=parser, tools=TOOLS, scores=(0.95,)
    )
    assert shown.outcome.stop_cause is StopCause.SURE
    assert arguments_of(shown) == CALLED


def tool_call_of(case: Case) -> tuple[str, str]:
    """The tool parser for this tokenizer, and a call as its model writes it."""
    if isinstance(case.form, Channels):
        return "openai", HARMONYS_CALL
    if case.model == "gptoss":
        pytest.skip("the tokenizer of gpt-oss was tried, whose tool calls are in channels")
    return ("deepseek_v3", DEEPSEEKS_CALL) if case.model == "deepseek_v3" else ("hermes", CALL)


@slow
@with_tokenizers
@every_case
async def test_json(case: Case, play: Any) -> None:
    """The grammar is for the answer alone: the thinking runs without it, and the answer's request has it."""
    asked = {"type": "json_schema", "json_schema": {"name": "apples", "schema": OBJECT}}
    drr = {"thinking_in": "reasoning"} if isinstance(case.form, PlainChain) else {}
    shown, script = await play(
        case, case.prompt(), case.turn(), case.ended(JSON_ANSWER), scores=(0.95,), response_format=asked, drr=drr
    )
    assert shown.content.endswith(JSON_ANSWER)
    assert script.grammars == [False, True]


@recorded_once
def test_the_page_shows_what_was_recorded() -> None:
    recorded = json.loads(RECORD.read_text())
    assert table(recorded) in (ROOT / PAGE).read_text(), "write it with: python -m tests.server.compatibility --report"
    assert {column for row in recorded["rows"] for column in row["outcomes"]} == set(COLUMNS.values())


@recorded_once
@with_tokenizers
def test_the_record_is_of_these_parsers() -> None:
    recorded = json.loads(RECORD.read_text())
    if recorded["vllm"] != vllm_version():
        pytest.skip(f"recorded with vLLM {recorded['vllm']}")
    found = {(row["tokenizer"], row["parser"], row["kind"]) for row in recorded["rows"]}
    cases = [(str(parameters.id), parameters.values[0]) for parameters in CASES]
    assert found == {(case.model, name.partition("-")[2], case.form.kind) for name, case in cases}
