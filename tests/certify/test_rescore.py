"""Judging recorded rollouts gives the scores of serving; scorers without a DM get rules with a stated risk."""

import asyncio
from pathlib import Path

import numpy as np
import pytest
from vllm.inputs.engine import tokens_input
from vllm.sampling_params import SamplingParams

from drr.certify.calibrate_scorers import rules_from
from drr.certify.replay import Replay
from drr.certify.rescore import rescore
from drr.cli.main import main
from drr.engine.vllm_probe import VllmProbe
from drr.engine.vllm_reasoner import VllmReasoner
from drr.errors import InputError
from drr.judge.calibration import Calibration
from drr.judge.scorer_card import ScorerCard, load_cards
from drr.judge.scorers.registry import training_free
from drr.learn.distill import draw_seed
from drr.learn.distill_config import DistillConfig
from drr.learn.records import Rollout, read_rollouts
from drr.loop.attempt import ThinkingLoop
from drr.loop.policy import PolicySettings
from drr.loop.reasoner import user_prompt
from drr.loop.response import Finished, LoopSettings, StepReport
from drr.loop.rule import Rule
from drr.loop.steps import StepRule
from drr.tasks import Split
from drr.tasks.arithmetic import questions
from tests.fake_engine import TOKENIZER, FakeEngine, distil

ASKED = questions(9, Split.CALIBRATION, 160)
CONFIG = DistillConfig(rollouts=2, extra_rollouts=0)


@pytest.fixture(scope="module")
def records(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rescore") / "records"
    distil(ASKED, folder, CONFIG, FakeEngine(ASKED, skill=0.8))
    return folder


async def live_scores(name: str, rollout: Rollout) -> tuple[list[float | None], int]:
    """The scorer's scores while the same rollout is generated, and the tokens of its probes."""
    reasoner = FakeEngine(ASKED, skill=0.8).reasoner()
    prompt = user_prompt(TOKENIZER, rollout.question)
    params = SamplingParams(temperature=0.8, seed=draw_seed(0, rollout.question, str(rollout.sample)))
    probe = VllmProbe(reasoner.generate, TOKENIZER, reasoner.form, "live")
    settings = LoopSettings(policy=PolicySettings(acts=False), max_tokens=512, deadline=60.0)
    loop = ThinkingLoop(
        VllmReasoner(reasoner.generate, TOKENIZER, tokens_input(prompt), params, "live", {}),
        training_free()[name],
        reasoner.form,
        StepRule(),
        settings,
        prompt,
        rollout.question,
        probe=probe,
    )
    scores: list[float | None] = []
    async for event in loop.run():
        if isinstance(event, StepReport):
            scores.append(event.p_now)
        elif isinstance(event, Finished):
            assert event.outcome.thinking_tokens == rollout.thinking_tokens
    return scores, probe.tokens


@pytest.mark.parametrize("name", ["confidence", "answer_probe", "logprob", "step_index", "stated"])
def test_a_recorded_rollout_is_judged_as_it_would_have_been_live(name: str, records: Path) -> None:
    rollouts = read_rollouts(records)[:6]
    reasoner = FakeEngine(ASKED, skill=0.8).reasoner()
    judged = asyncio.run(rescore(training_free()[name], rollouts, reasoner))
    for rollout, rescored in zip(rollouts, judged, strict=True):
        live, probed = asyncio.run(live_scores(name, rollout))
        assert rescored.scores[:, 0].tolist() == pytest.approx(live)
        assert sum(rescored.probes) == probed
        assert (sum(rescored.probes) > 0) is (name in ("confidence", "answer_probe"))


def test_probes_are_paid_for_in_a_replay(records: Path) -> None:
    rollouts = read_rollouts(records)[:20]
    scores = [np.full((len(rollout.steps), 2), 0.5) for rollout in rollouts]
    rules, _, _ = rules_from([np.full((3, 2), 0.7)])
    free, paid = Replay(rollouts, scores), Replay(rollouts, scores, [[7] * len(rollout.steps) for rollout in rollouts])
    full = free.outcomes(rules[0])
    assert (paid.outcomes(rules[0]).tokens - full.tokens).tolist() == [7 * len(rollout.steps) for rollout in rollouts]
    now = next(rule for rule in rules_from(scores)[0] if rule.patience == 2 and rule.threshold == 0.5)
    assert (paid.outcomes(now).tokens - free.outcomes(now).tokens).tolist() == [14] * len(rollouts)


def test_rules_stand_where_the_scores_do() -> None:
    rng = np.random.default_rng(0)
    scores = [0.97 + 0.03 * rng.random((8, 2)) for _ in range(200)]
    rules, accepts, give_ups = rules_from(scores)
    seen = np.concatenate([rollout_scores[:, 0] for rollout_scores in scores])
    assert {rule.patience for rule in rules} == {1, 2, 3}
    assert Rule(None) in rules, "one rule stops nothing"
    stopping = sorted({rule.threshold for rule in rules if rule.threshold is not None})
    assert np.mean(seen >= stopping[len(stopping) // 2]) == pytest.approx(0.35, abs=0.2)
    assert min(accepts) > 0.97
    assert 0.97 < min(give_ups) < max(give_ups) < max(stopping)
    for rule in rules:
        assert rule.threshold is None or rule.hopeless is None or rule.hopeless < rule.threshold
    assert Rule(None) in rules_from([np.ones((3, 2))])[0], "also where a score is as high as scores can be"


def test_a_scorer_is_calibrated_by_the_command(records: Path, tmp_path: Path) -> None:
    arguments = ["calibrate", "--scorer", "logprob", "--scorer", "stated", "--data", str(records), "--risk", "0.3"]
    assert main([*arguments, "--out", str(tmp_path)]) == 0
    cards = {card.scorer: card for card in load_cards(tmp_path)}
    assert set(cards) == {"logprob", "stated"}
    for card in cards.values():
        assert (card.reasoner, card.step_rule) == ("0123456789abcdef", "blank_line")
        calibration = Calibration.from_json(card.calibration)
        assert calibration.questions["test"] > 80
        assert {mode: chosen["attempts"] for mode, chosen in calibration.rethink.items()} == {"auto": 2, "rethink": 2}
        again = calibration.thinking_again("rethink")
        assert again is not None
        assert again[0].threshold is None
    with pytest.raises(InputError, match="was calibrated on fake, not on this Reasoner"):
        cards["stated"].check("--drr-calibration", "another", "blank_line", None)
    with pytest.raises(InputError, match="on steps by blank_line, not by line"):
        cards["stated"].check("--drr-calibration", "0123456789abcdef", "line", None)
    prm = ScorerCard("prm", "r", "r", "blank_line", {}, model="org/one")
    prm.check("--drr-calibration", "r", "blank_line", "org/one")
    prm.check("--drr-calibration", "r", "blank_line", None)
    with pytest.raises(InputError, match="another process reward model than org/other"):
        prm.check("--drr-calibration", "r", "blank_line", "org/other")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--scorer", "logprob"], "--out: is needed"),
        (["--scorer", "wisdom", "--out", "x"], "--scorer: 'wisdom' is none of"),
        (["--scorer", "confidence", "--out", "x"], "--reasoner: is needed"),
        (["--scorer", "logprob", "--dm", "x", "--out", "x"], "--scorer: give either"),
        ([], "--scorer: give either"),
        (["--dm", "x", "--limit", "4"], "--limit: belongs to --scorer"),
        (["--scorer", "logprob", "--out", "x", "--check", "4"], "--check: is for DMs"),
        (["--scorer", "prm", "--out", "x"], "--prm: names the model"),
        (["--scorer", "logprob", "--prm", "m", "--out", "x"], "--prm: names the model"),
        (["--scorer", "logprob", "--out", "x", "--limit", "9"], "leaves"),
        (["--scorer", "logprob", "--out", "x", "--limit", "-5"], "--limit: must be at least 1"),
    ],
)
def test_what_cannot_be_calibrated_is_said(
    arguments: list[str], said: str, records: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["calibrate", "--data", str(records), "--risk", "0.3", *arguments]) == 2
    assert said in capsys.readouterr().err


def test_damaged_calibrations_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="holds no calibrated scorers"):
        load_cards(tmp_path)
    ScorerCard("wisdom", "", "", "blank_line", {}).save(tmp_path)
    with pytest.raises(InputError, match="field scorer: 'wisdom' is no scorer"):
        load_cards(tmp_path)
    (tmp_path / "wisdom.json").unlink()
    ScorerCard("logprob", "", "", "blank_line", {"rules": 1}).save(tmp_path)
    with pytest.raises(InputError, match="field calibration"):
        load_cards(tmp_path)
