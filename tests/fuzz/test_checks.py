"""The checks find what is wrong with an answer: real ones pass, and every lie that is put into one is found."""

import copy
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.fuzz.asking import Answer, take_chunk, take_whole
from tests.fuzz.checks import violations
from tests.fuzz.draw import REGEX, Drawn, draw
from tests.fuzz.refusals import sent
from tests.fuzz.requests import Result, read_record, summary
from tests.fuzz.watch import wrong_log

ANSWERS: dict[str, Any] = json.loads((Path(__file__).parent / "answers.json").read_text())
"""Answers of a server: one stopped, one rethought, one refused."""


def found(name: str, change: Callable[[dict[str, Any]], Any] = lambda told: None, **fields: Any) -> list[str]:
    """What is wrong with this answer after a change; `fields` change what was asked for."""
    recorded = copy.deepcopy(ANSWERS[name])
    change(recorded["told"])
    answer = Answer(status=recorded["status"], outcome_header=recorded["header"])
    if answer.status == 200:
        take_whole(answer, recorded["told"])
    else:
        answer.error = recorded["told"]
    return violations(Drawn(0, {**recorded["asked"], **fields}), answer)


def put(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    """A change: `value` at `path`, whose parts are keys and positions; a function makes it from what is there."""

    def change(told: Any) -> None:
        *way, last = [int(part) if part.lstrip("-").isdigit() else part for part in path.split(".")]
        for part in way:
            told = told[part]
        told[last] = value(told[last]) if callable(value) else value

    return change


@pytest.mark.parametrize("name", list(ANSWERS))
def test_real_answers_pass(name: str) -> None:
    assert found(name) == []


def more(value: int) -> int:
    return value + 1


@pytest.mark.parametrize(
    ("name", "path", "value", "words"),
    [
        ("stopped", "usage.completion_tokens", more, "not the sum"),
        ("stopped", "usage.completion_tokens_details.reasoning_tokens", more, "by the accounts"),
        ("stopped", "usage.completion_tokens_details.discarded_tokens", more, "usage and accounts differ"),
        ("stopped", "drr.thinking_tokens", more, "token ids are shown"),
        ("stopped", "drr.answer_tokens", -3, "negative"),
        ("stopped", "drr.discarded_tokens", 900, "max_tokens"),
        ("stopped", "drr.stop_cause", "natural", "although the last verdict is to stop"),
        ("stopped", "drr.stop_cause", "judge_unavailable", "cannot be here"),
        ("stopped", "drr.stop_cause", "off", "off, and judged"),
        ("stopped", "drr.stop_cause", "hopeless", "hopeless with the last step"),
        ("stopped", "drr.stop_cause", "max_thinking_tokens", "max_thinking_tokens None"),
        ("stopped", "drr.stop_cause", "max_tokens", "finish_reason stop"),
        ("stopped", "drr.stop_cause", "no_thinking", "no_thinking with"),
        ("stopped", "drr.stop_cause", "abstained", "abstained with"),
        ("stopped", "drr.stop_cause", "bored", "schema"),
        ("stopped", "drr.nudges", 2, "nudges"),
        ("stopped", "drr.settings.threshold", 0.9, "threshold was asked to be"),
        ("stopped", "drr.settings.mode", "shadow", "mode was asked to be"),
        ("stopped", "drr.steps.-1.p_now", 0.2, "sure with the last step"),
        ("stopped", "drr.steps.-1.p_now", 1.2, "no probability"),
        ("stopped", "drr.steps.-1.verdict", "continue", "sure with the last step"),
        ("stopped", "drr.steps.0.verdict", "stop", "went on behind"),
        ("stopped", "drr.steps.0.index", 5, "not in order"),
        ("stopped", "drr.steps.0.tokens", 999, "in a thinking of"),
        ("stopped", "drr.judge.decisions", more, "timed"),
        ("stopped", "drr.judge", None, "judge"),
        ("stopped", "drr.risk", {"max_lost_correct": 0.1, "holds": True, "broken_by": []}, "risk"),
        ("stopped", "choices.0.token_ids", lambda ids: ids[:-1], "token ids are shown"),
        ("stopped", "choices.0.token_ids", lambda ids: [*ids[1:], ids[0]], "other tokens than are shown"),
        ("stopped", "choices.0.logprobs.content", lambda entries: entries[1:], "log-probabilities for"),
        ("stopped", "choices.0.logprobs.content.0.logprob", 0.5, "a token's log-probability"),
        ("stopped", "choices.0.message.content", "\n\nThe answer is 12.", "the token ids spell"),
        ("stopped", "choices.0.message.refusal", "no", "without an abstention"),
        ("stopped", "choices.0.finish_reason", "abort", "finish_reason abort"),
        ("stopped", "choices.0.stop_reason", "x", "stop_reason"),
        ("rethought", "drr.attempts", 7, "told of"),
        ("rethought", "drr.attempt_details.0.generated_tokens", more, "the attempts generated"),
        ("rethought", "drr.attempt_details.0.discarded_tokens", more, "discarded tokens do not add up"),
        ("rethought", "drr.attempt_details.0.fate", "accepted", "with attempts"),
        ("rethought", "drr.attempt_details.0.fate", "abandoned", "ran alone"),
        ("rethought", "drr.attempt_details.0.p_now", 1.1, "rejected with p_now"),
        ("rethought", "drr.stop_cause", "natural", "with attempts"),
        ("rethought", "drr.settings.max_rethinks", 1, "with max_rethinks 1"),
        ("rethought", "drr.settings.max_rethinks", 4, "rethink_limit after"),
        ("rethought", "choices.0.token_ids", lambda ids: ids[:-1], "the rejected"),
        ("refused", "error.param", "drr.threshold", "never sent"),
        ("refused", "error.param", None, "names no field"),
        ("refused", "error.message", "no", "does not begin with its param"),
        ("refused", "error.code", 500, "code 500"),
        ("refused", "error", "no", "OpenAI's shape"),
    ],
)
def test_a_lie_is_found(name: str, path: str, value: Any, words: str) -> None:
    assert any(words in text for text in found(name, put(path, value)))


def test_what_was_not_asked_for_is_found() -> None:
    assert any("nobody asked for" in text for text in found("stopped", return_token_ids=False))
    assert any("max_tokens 20" in text for text in found("stopped", max_tokens=20))
    assert any("in the answer" in text for text in found("stopped", stop="answer"))
    assert any("choices" in text for text in found("stopped", n=2))
    assert any("include_reasoning" in text for text in found("stopped", include_reasoning=False))
    assert any("grammar" in text for text in found("stopped", structured_outputs={"regex": REGEX}))
    answer = Answer(status=200, outcome_header="cause=natural")
    take_whole(answer, copy.deepcopy(ANSWERS["stopped"]["told"]))
    assert any("X-DRR-Outcome" in text for text in violations(Drawn(0, ANSWERS["stopped"]["asked"]), answer))


def test_a_server_error_and_a_hang_are_found() -> None:
    drawn = Drawn(0, ANSWERS["stopped"]["asked"])
    assert "HTTP 500" in violations(drawn, Answer(status=500, error={}))[0]
    assert violations(drawn, Answer(broken=["no end within 120 s"])) == ["no end within 120 s"]
    assert violations(drawn, Answer(status=200, cancelled=True)) == []


def test_a_stream_that_lies_is_found() -> None:
    told = ANSWERS["stopped"]["told"]
    message, own = told["choices"][0]["message"], told["drr"]
    asked = {**ANSWERS["stopped"]["asked"], "stream": True, "logprobs": False, "return_token_ids": False}
    asked["stream_options"] = {"include_usage": True}
    steps = [{"choices": [], "drr": {"step": {"choice": 0, **step}}} for step in own["steps"]]
    first = {"choices": [{"index": 0, "delta": {"reasoning": message["reasoning"]}, "finish_reason": None}]}
    last = {
        "choices": [{"index": 0, "delta": {"content": message["content"], "drr": own}, "finish_reason": "stop"}],
        "drr": own,
    }
    usage = {"choices": [], "usage": told["usage"]}

    def wrong(*chunks: dict[str, Any]) -> list[str]:
        header = 'mode=stop, judge="drr-reference-dm", account=last-chunk'
        answer = Answer(status=200, streamed=True, outcome_header=header)
        for chunk in chunks:
            take_chunk(answer, copy.deepcopy(chunk))
        return violations(Drawn(0, asked), answer)

    assert wrong(first, *steps, last, usage) == []
    assert "streamed steps" in wrong(first, *steps[1:], last, usage)[0]
    assert "chunks with usage" in wrong(first, *steps, last)[0]
    assert "without an end" in wrong(first, *steps, usage)[0]
    assert "came twice" in wrong(first, *steps, {"choices": [], "drr": own}, last, usage)[0]
    assert "went on behind its end" in wrong(first, *steps, last, first, usage)[0]
    most = {**told["usage"], "completion_tokens": 10**6, "total_tokens": 10**6 + told["usage"]["prompt_tokens"]}
    assert "fall in a stream" in wrong(first, *steps, last, {**usage, "usage": most}, usage)[0]


def test_requests_are_decided_by_their_number() -> None:
    drawn = [draw(1, number) for number in range(300)]
    assert [own.content() for own in drawn] == [draw(1, number).content() for number in range(300)]
    assert len({own.content() for own in drawn}) == 300
    assert {"mode", "threshold", "parallel", "refusal"} <= {key for own in drawn for key in own.keys}
    header = next(own for own in drawn if "X-DRR" in own.headers and own.keys)
    assert {f"X-DRR.{str(key)[:80]}" for key in header.keys} <= sent(header)


def test_a_run_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    record = tmp_path / "record"
    assert read_record(record, 1) == []
    kept = Result(1, 0, "whole", causes=["sure"], violations=["x"])
    lines = [json.dumps(vars(result)) for result in (kept, Result(2, 0, "refused"))]
    record.write_text("\n".join(lines) + "\n")
    assert read_record(record, 1) == [kept]
    assert "violations: 1 in 1 requests" in summary([kept])


def test_a_log_is_looked_through(tmp_path: Path) -> None:
    log = tmp_path / "log"
    streamed = "ERROR [serving.py:9] Error in stream\nERROR [serving.py:9] Traceback\nERROR [serving.py:9] {why}\n"
    known = streamed.format(why="VLLMValidationError: Grammar error: (")
    log.write_text(f"INFO all is well\n{known}ERROR broken\n{streamed.format(why='KeyError')}INFO\nTraceback (most")
    assert wrong_log(log) == ["log: ERROR broken", "log: ERROR [serving.py:9] Error in stream", "log: Traceback (most"]
