"""The head, the metrics and the replay that choose a DM."""

import json
from pathlib import Path

import numpy as np
import pytest

from drr.dm import CARD_NAME, DmCard, DmMismatchError, fingerprint
from drr.dm_metrics import auroc, ece, phase_masks, within_question_auroc
from drr.features import FEATURE_NAMES
from drr.head import INPUT_NAMES, FusionHead
from drr.policy import PolicySettings, Score
from drr.replay import choose_rule, replay
from drr.steps import StepRule
from drr.train import Boundaries, fit_head, with_temperatures

from .test_dm_input import rollout_of


def synthetic(count: int, seed: int) -> Boundaries:
    """Boundaries whose label depends on the text logit and on one behaviour feature, equally."""
    rng = np.random.default_rng(seed)
    text, behaviour = rng.normal(size=count), rng.normal(size=count)
    now = rng.random(count) < 1 / (1 + np.exp(-2 * (text + behaviour)))
    features = np.zeros((count, len(FEATURE_NAMES)))
    features[:, FEATURE_NAMES.index("attempt_mean_logprob")] = behaviour
    logits = np.stack([text, text], axis=1)
    return Boundaries(logits, features, now, now, np.arange(count), np.zeros(count, dtype=np.int64))


def questions(data: Boundaries) -> list[str]:
    return [f"question {number // 4}" for number in range(len(data.now))]


def probabilities(head: FusionHead, data: Boundaries) -> np.ndarray:
    return np.asarray(
        [head.score((a, b), f.tolist()).p_now for (a, b), f in zip(data.text_logits, data.features, strict=True)]
    )


def test_the_fused_head_beats_both_of_its_parts_and_is_calibrated() -> None:
    train, calibration, test = synthetic(3000, 0), synthetic(2000, 1), synthetic(2000, 2)
    fused = with_temperatures(fit_head(train, questions(train), steps=200), calibration)
    alone = with_temperatures(fit_head(train, questions(train), steps=200, use=FEATURE_NAMES), calibration)
    own = auroc(probabilities(fused, test), test.now)
    behaviour, text = auroc(probabilities(alone, test), test.now), auroc(test.text_logits[:, 0], test.now)
    assert own is not None
    assert behaviour is not None
    assert text is not None
    assert own > max(behaviour, text) + 0.05
    assert ece(probabilities(fused, test), test.now) < 0.05


def test_heads_survive_json_and_refuse_other_inputs() -> None:
    data = synthetic(200, 0)
    head = fit_head(data, questions(data), steps=5)
    saved = json.loads(json.dumps(head.to_json()))
    again = FusionHead.from_json(saved)
    features = [0.1] * len(FEATURE_NAMES)
    assert again.score((0.3, -0.2), features) == head.score((0.3, -0.2), features)
    assert again.score((2.0, -2.0), None) == Score(pytest.approx(0.8808, abs=1e-3), pytest.approx(0.1192, abs=1e-3))
    with pytest.raises(ValueError, match="behaviour features"):
        FusionHead.from_json({**saved, "inputs": list(INPUT_NAMES[:-1])})


def test_within_question_auroc_compares_only_attempts_of_one_question() -> None:
    scores, labels = np.asarray([0.9, 0.1, 0.2, 0.3, 0.5]), np.asarray([True, False, False, True, True])
    value, mixed = within_question_auroc(scores, labels, ["a", "a", "b", "b", "c"])
    assert (value, mixed) == (1.0, 2)
    assert within_question_auroc(-scores, labels, ["a", "a", "b", "b", "c"])[0] == 0.0
    assert within_question_auroc(scores, labels, list("abcde")) == (None, 0)


def test_calibration_error_of_honest_and_dishonest_scores() -> None:
    rng = np.random.default_rng(0)
    honest = rng.random(20_000)
    labels = rng.random(20_000) < honest
    assert ece(honest, labels) < 0.02
    assert ece(np.full(20_000, 0.9), labels) == pytest.approx(0.4, abs=0.02)


def test_phases_are_before_first_and_after() -> None:
    features = np.zeros((4, len(FEATURE_NAMES)))
    features[1:, FEATURE_NAMES.index("answer_stated")] = 1
    features[1:, FEATURE_NAMES.index("log_answers_stated")] = np.log1p([1, 1, 2])
    zeros = np.zeros((4, 2))
    data = Boundaries(zeros, features, np.ones(4, bool), np.ones(4, bool), np.zeros(4, int), np.arange(4))
    masks = {phase: mask.tolist() for phase, mask in phase_masks(data).items()}
    assert masks == {
        "before": [True, False, False, False],
        "first": [False, True, False, False],
        "after": [False, False, True, True],
    }


def test_replay_stops_where_the_policy_would() -> None:
    rollout = rollout_of(["a", "b", "c", "d"])
    rollout.now = [False, True, False, True]
    scores = [Score(p, p) for p in (0.2, 0.8, 0.9, 0.1)]
    early = replay([rollout], [scores], PolicySettings(threshold=0.7))
    assert (early.accuracy, early.tokens) == (1.0, 6 + 10)
    late = replay([rollout], [scores], PolicySettings(threshold=0.85))
    assert (late.accuracy, late.lost) == (0.0, 100.0)
    never = replay([rollout], [scores], PolicySettings(threshold=0.95))
    assert (never.tokens, never.saved) == (rollout.total_tokens, 0.0)
    assert early.lost_at_most == 0.0
    best, curve = choose_rule([rollout], [scores], max_lost_points=0.5)
    assert 0.2 < best.threshold <= 0.8
    assert len(curve) > 20


def test_cards_say_what_they_are_for(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"weights")
    card = DmCard("a-dm", fingerprint(tmp_path), "a-reasoner", "blank_line", 0.9)
    card.save(tmp_path)
    loaded = DmCard.load(tmp_path)
    assert loaded == card
    loaded.check(fingerprint(tmp_path), StepRule())
    with pytest.raises(DmMismatchError, match="steps by blank_line, not by sentence"):
        loaded.check(fingerprint(tmp_path), StepRule("sentence"))
    with pytest.raises(DmMismatchError, match="behaviour of a-reasoner"):
        loaded.check("other", StepRule())
    with pytest.raises(DmMismatchError, match="rendering 99"):
        DmCard("a", fingerprint(tmp_path), "r", "blank_line", 0.9, rendering=99).check(card.reasoner, StepRule())
    (tmp_path / CARD_NAME).write_text('{"id": "x", "unknown": 1}')
    with pytest.raises(ValueError, match="cannot be read"):
        DmCard.load(tmp_path)
    with pytest.raises(ValueError, match="is no DM"):
        DmCard.load(tmp_path / "nowhere")
