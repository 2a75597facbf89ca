"""Evaluation through chat completions: scripted vendors, real HTTP, every token that a vendor reports counted."""

import math
from pathlib import Path
from typing import Any

import pytest

from drr.cli.eval_command import CHAT_SCORERS
from drr.cli.main import main
from drr.engine.upstream.chat_probe import probe_chat
from drr.engine.upstream.http import UpstreamClient
from drr.errors import InputError
from drr.evaluate.chat_run import ChatEvaluator, possible
from drr.evaluate.eval_config import EvalConfig
from drr.evaluate.run import Row, StrategyOutcomes, evaluate, read_outcomes
from drr.evaluate.strategies import FULL, Strategy, all_strategies
from drr.judge.scorers.registry import training_free
from drr.loop.chat.said import Tier
from drr.loop.policy import PolicySettings
from drr.loop.rethink import RethinkSettings
from drr.tasks import Question
from drr.tasks.grading_pool import Grading
from tests.upstream.serving import WordDm
from tests.upstream.vendors import MODEL, DeepSeek, Fault, OpenAI, Said, Vendor, in_turn, listening

QUESTIONS = [Question("What is 17 + 4?", "21", "easy", 0), Question("What is 3 + 4?", "7", "hard", 0)]
CONFIG = EvalConfig(max_tokens=64, answer_tokens=16)
THOUGHT = "Seventeen and four.\n\nThat is 21.\n\nLet me check that once more, slowly."

SCORERS: Any = ["dm", *CHAT_SCORERS]


async def evaluated(
    vendor: Vendor,
    out: Path,
    strategies: list[Strategy] | None = None,
    dm: WordDm | None = None,
    **sampling: Any,
) -> tuple[dict[str, StrategyOutcomes], ChatEvaluator]:
    """What the strategies came to, all possible ones unless some are given."""
    async with listening(vendor) as address:
        client = UpstreamClient(address + vendor.path.removesuffix("/chat/completions"))
        try:
            abilities = await probe_chat(client, MODEL)
            vendor.bodies.clear()
            vendor._asked.clear()
            if strategies is None:
                strategies = possible(all_strategies(SCORERS, {}, (2, 3)), abilities.tier, greedy=bool(sampling))
            scorers: Any = {**training_free(), "dm": dm or WordDm({"21": 0.9, "7": 0.9})}
            with Grading("auto") as grading:
                evaluator = ChatEvaluator(client, abilities, MODEL, scorers, grading, CONFIG, sampling)
                await evaluate(evaluator, strategies, QUESTIONS, out, {})
        finally:
            await client.aclose()
    assert vendor.open == 0
    return {one.name: one for one in read_outcomes(out)}, evaluator


def scripted(body: Any, number: int) -> Said:
    """A Reasoner that gets the first question right, and the second when it is asked for the third time. It finds
    everything that is not 8 right."""
    if "17 + 4" in str(body["messages"]) and "Proposed answer:" not in str(body["messages"]):
        return Said(THOUGHT, "The answer is 21.")
    right, wrong = (Said("Three.\n\nFour.", f"The answer is {answer}.") for answer in (7, 8))
    return in_turn(wrong, wrong, right)(body, number)


async def test_every_possible_strategy_answers_every_question(tmp_path: Path) -> None:
    vendor = OpenAI(scripted)
    outcomes, evaluator = await evaluated(vendor, tmp_path)
    assert {"full thinking", "3 samples", "rethink: dm, 2", "rethink: critique, 3", "judged by self_critique"} <= {
        *outcomes
    }
    assert not any(name.startswith(("greedy", "budget", "nudged", "oracle", "in context", "dm,")) for name in outcomes)
    for one in outcomes.values():
        samples = 3 if one.name == "3 samples" else 1
        assert sorted((row.question, row.sample) for row in one.rows) == [
            (number, sample) for number in range(2) for sample in range(samples)
        ]
        assert {row.group for row in one.rows} == {"easy", "hard"}
    counted = sum(row.tokens for one in outcomes.values() for row in one.rows)
    assert counted == evaluator.cost.completion_tokens, "all that the vendor made, and nothing else"
    assert evaluator.cost.requests == len(vendor.bodies)
    assert all("temperature" not in body for body in vendor.bodies), "what nobody gave is the server's own choice"


async def test_thinking_again_is_decided_and_counted(tmp_path: Path) -> None:
    again = Strategy(
        "rethink: dm, 2", "rethink: dm", "dm", PolicySettings(threshold=None, accept=0.5), rethink=RethinkSettings(1)
    )
    dm = WordDm({"21": 0.9, "is 7": 0.9})
    outcomes, _ = await evaluated(OpenAI(scripted), tmp_path, [Strategy(FULL, "full"), again], dm)
    first, second = sorted(outcomes["rethink: dm, 2"].rows, key=lambda row: row.question)
    assert (first.attempts, first.right, first.answer, first.p_now) == (1, True, "21", 0.9)
    assert (second.attempts, second.right, second.answer, second.p_now) == (2, True, "7", 0.9)
    full: list[Row] = sorted(outcomes[FULL].rows, key=lambda row: row.question)
    assert [row.right for row in full] == [True, False]
    assert all(math.isnan(row.p_now) for row in full)
    assert first.tokens == full[0].tokens
    assert second.tokens == 2 * full[1].tokens


async def test_where_a_thought_can_be_handed_back_thinking_is_ended(tmp_path: Path) -> None:
    vendor = DeepSeek(scripted)
    outcomes, _ = await evaluated(vendor, tmp_path, dm=WordDm({"21": 0.95}), temperature=0.6)
    assert {"dm, at 0.9", "budget 32", "greedy", "first stated answer"} <= {*outcomes}
    assert not any(name.startswith(("rethink: critique", "nudged", "oracle", "in context")) for name in outcomes)
    stopped, full = ({row.question: row for row in outcomes[name].rows} for name in ("dm, at 0.9", FULL))
    assert stopped[0].stop_cause == "sure"
    assert stopped[0].thinking_tokens < full[0].thinking_tokens
    assert stopped[1].stop_cause == "natural"
    temperatures = {body["temperature"] for body in vendor.bodies}
    assert temperatures == {0.6, 0.0}


async def test_attempts_of_one_strategy_have_no_more_room_than_those_of_another(tmp_path: Path) -> None:
    long = OpenAI(lambda body, number: Said("", "word " * 200))
    again = Strategy("rethink: dm, 2", "rethink: dm", "dm", PolicySettings(threshold=None, accept=0.5))
    again = Strategy(again.name, again.family, "dm", again.policy, rethink=RethinkSettings(1))
    outcomes, _ = await evaluated(long, tmp_path, [Strategy(FULL, "full"), again], WordDm({}))
    assert [row.tokens for row in outcomes[FULL].rows] == [64, 64]
    assert [row.tokens for row in outcomes["rethink: dm, 2"].rows] == [128, 128]


async def test_a_server_that_goes_away_is_said(tmp_path: Path) -> None:
    vendor = OpenAI(in_turn(Said("", "The answer is 21.")))
    vendor.always = None
    async with listening(vendor) as address:
        client = UpstreamClient(address + "/v1")
        try:
            abilities = await probe_chat(client, MODEL)
            vendor.always = Fault(status=400)
            with Grading("auto") as grading:
                evaluator = ChatEvaluator(client, abilities, MODEL, {}, grading, CONFIG, {})
                with pytest.raises(InputError, match=r"--server: the upstream answered 400: .*start again"):
                    await evaluator.run(Strategy(FULL, "full"), QUESTIONS)
        finally:
            await client.aclose()


@pytest.mark.parametrize(
    ("tier", "lacks"),
    [("opaque", ("stop", "nudge", "in context", "oracle")), ("prefix", ("nudge", "in context", "stop: oracle"))],
)
def test_no_strategy_asks_for_what_a_tier_does_not_give(tier: Tier, lacks: tuple[str, ...]) -> None:
    everything = all_strategies(["dm", "logprob", "critique", "step_index"], {}, (2, 4))
    found = possible(everything, tier, greedy=True)
    families = {one.family for one in found}
    assert FULL in {one.name for one in found}
    assert "rethink: dm" in families
    assert not [family for family in families if family.startswith(lacks)]
    assert not [one for one in found if one.scorer == "logprob"]
    assert any(one.greedy for one in found)
    assert not any(one.greedy for one in possible(everything, tier, greedy=False))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            ["--server", "http://127.0.0.1:9/v1"],
            "--tokenizer: is needed with --server: the Reasoner's folder or id (or",
        ),
        (["--server", "ftp://x", "--chat"], "--server: "),
        (["--reasoner", "x", "--chat"], "--chat: belongs to --server"),
        (["--server", "http://127.0.0.1:9/v1", "--chat", "--seed", "3"], "--seed: is not for --chat"),
        (["--server", "http://127.0.0.1:9/v1", "--chat", "--api-key-env", "NO_SUCH_KEY"], "--api-key-env: the envir"),
        (
            ["--server", "http://127.0.0.1:9/v1", "--tokenizer", "x", "--dtype", "float32"],
            "--dtype: is not for --server",
        ),
        (["--out", "somewhere"], "--reasoner: is needed: a Hugging Face folder or id (or --server)"),
    ],
)
def test_options_that_do_not_go_together_are_named(
    options: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["eval", "reference:test", "--out", str(tmp_path / "out"), *options]
    assert main(asked) == 2
    assert told in capsys.readouterr().err
