"""Build the reference models from nothing: Reasoner, its graded behaviour, its DM, and their model cards.

Every stage leaves a folder or file; a build that was stopped continues with the first stage that is missing.
"""

import asyncio
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from drr.distill import DistillConfig, Rollout, distill, read_rollouts
from drr.dm import DmCard, fingerprint
from drr.dm_metrics import score_report
from drr.engines import cpu_engine_defaults, prepare_environment
from drr.features import FEATURE_NAMES
from drr.head import FusionHead
from drr.policy import Score
from drr.reasoner import ThinkingFormat
from drr.reference.card import write_cards
from drr.reference.pretrain import PretrainConfig, pretrain
from drr.reference.suite import SIZES, reference_questions
from drr.replay import choose_rule
from drr.steps import StepRule
from drr.tasks import Split
from drr.train import (
    Boundaries,
    TrainConfig,
    fit_head,
    save_head,
    score_boundaries,
    train_text_classifier,
    with_temperatures,
)

_ROLLOUTS = 8
_HEAD_SHARE = 0.25
"""Share of the training questions that the classifier never sees, for the head."""

_MAX_LOST_POINTS = 1.0
"""What the default threshold may lose on the validation questions, with 95 % confidence."""

NUDGE_CUE = "Wait, let me check."
"""The words with which the Reasoner's own checks begin."""

_KV_CACHE_BYTES = 2 << 30


def build(out: Path, *, quick: bool = False, seed: int = 0) -> None:
    """Run every stage that has not been run in `out`. `quick` makes toys in two minutes, for tests."""
    prepare_environment()
    out.mkdir(parents=True, exist_ok=True)
    counts = {split: 24 if quick else size for split, size in SIZES.items()}
    rollouts = 2 if quick else _ROLLOUTS
    pretraining = PretrainConfig(seed=seed)
    if quick:
        pretraining = replace(pretraining, hidden=64, layers=2, heads=2, feed_forward=128, tokens=400_000)
    _stage(out, "reasoner", lambda: pretrain(out / "reasoner", pretraining))
    _stage(out, "rollouts", lambda: asyncio.run(_roll_out(out, counts, rollouts, seed, 192 if quick else 1024)))
    _stage(out, "classifier", lambda: _classifier(out, TrainConfig(seed=seed, epochs=1.0 if quick else 3.0)))
    _stage(out, "dm", lambda: _finish_dm(out, seed))
    write_cards(out)


def _stage(out: Path, name: str, run: Callable[[], dict[str, Any]]) -> None:
    """Run a stage unless its figures are there; its figures and seconds go to `out`/figures/NAME.json."""
    path = out / "figures" / f"{name}.json"
    if path.exists():
        return
    started = time.monotonic()
    figures = run()
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({**figures, "stage_seconds": round(time.monotonic() - started)}, indent=2) + "\n")


async def _roll_out(out: Path, counts: dict[Split, int], rollouts: int, seed: int, max_tokens: int) -> dict[str, Any]:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    options = cpu_engine_defaults(_KV_CACHE_BYTES)
    engine = AsyncLLM.from_engine_args(
        AsyncEngineArgs(model=str(out / "reasoner"), disable_log_stats=True, max_num_seqs=256, **options)
    )
    try:
        tokenizer = engine.renderer.tokenizer
        form = ThinkingFormat(
            (tokenizer.convert_tokens_to_ids("<think>"),), (tokenizer.convert_tokens_to_ids("</think>"),)
        )
        config = DistillConfig(rollouts=rollouts, seed=seed, max_tokens=max_tokens, concurrency=192)
        for split, count in counts.items():
            folder = out / "rollouts" / split.value
            await distill(engine, form, reference_questions(split, count), folder, config, name=f"Rollouts {split}")
        greedy = replace(config, rollouts=1, temperature=0.0)
        questions = reference_questions(Split.TEST, counts[Split.TEST])
        await distill(engine, form, questions, out / "rollouts" / "test-greedy", greedy, name="Greedy test")
    finally:
        engine.shutdown()
    return {split.value: {"questions": count, "rollouts": count * rollouts} for split, count in counts.items()}


def _training_rollouts(out: Path) -> tuple[list[Rollout], list[Rollout]]:
    """Rollouts for the classifier and for the head: of different questions."""
    rollouts = read_rollouts(out / "rollouts" / "train")
    questions = sorted({rollout.question for rollout in rollouts})
    kept_for_head = set(questions[: int(len(questions) * _HEAD_SHARE)])
    head = [rollout for rollout in rollouts if rollout.question in kept_for_head]
    return [rollout for rollout in rollouts if rollout.question not in kept_for_head], head


def _calibration_rollouts(out: Path) -> tuple[list[Rollout], list[Rollout]]:
    """Two thirds of the calibration questions for the head, which needs all it can get, one third for temperatures."""
    rollouts = read_rollouts(out / "rollouts" / "calibration")
    questions = sorted({rollout.question for rollout in rollouts})
    for_head = set(questions[: 2 * len(questions) // 3])
    return (
        [rollout for rollout in rollouts if rollout.question in for_head],
        [rollout for rollout in rollouts if rollout.question not in for_head],
    )


def _classifier(out: Path, config: TrainConfig) -> dict[str, Any]:
    text, _ = _training_rollouts(out)
    train_text_classifier(text, out / "reasoner", out / "dm", config)
    return {"rollouts": len(text), "boundaries": sum(len(rollout.steps) for rollout in text)}


def _finish_dm(out: Path, seed: int) -> dict[str, Any]:
    folder, limit = out / "dm", TrainConfig().max_tokens
    _, head_rollouts = _training_rollouts(out)
    more, temperature_rollouts = _calibration_rollouts(out)
    head_rollouts += more
    fitting = score_boundaries(head_rollouts, folder, limit)
    temperature = score_boundaries(temperature_rollouts, folder, limit)
    questions = [rollout.question for rollout in head_rollouts]
    head = with_temperatures(fit_head(fitting, questions, seed=seed), temperature)
    behaviour = with_temperatures(fit_head(fitting, questions, use=FEATURE_NAMES, seed=seed), temperature)
    save_head(head, folder)
    test_rollouts = read_rollouts(out / "rollouts" / "test")
    test = score_boundaries(test_rollouts, folder, limit)
    figures = {
        "text": score_report(_text_probabilities(head, test), test, test_rollouts),
        "behaviour": score_report(_probabilities(behaviour, test), test, test_rollouts),
        "fused": score_report(_probabilities(head, test), test, test_rollouts),
    }
    validation_rollouts = read_rollouts(out / "rollouts" / "validation")
    validation = score_boundaries(validation_rollouts, folder, limit)
    chosen, curve = choose_rule(
        validation_rollouts, _scores_by_rollout(head, validation, len(validation_rollouts)), _MAX_LOST_POINTS
    )
    DmCard(
        id="drr-reference-dm",
        reasoner=fingerprint(out / "reasoner"),
        reasoner_name="drr-reference",
        step_rule=str(StepRule()),
        threshold=round(chosen.threshold, 4),
        patience=chosen.patience,
        nudge_cue=NUDGE_CUE,
        metrics=figures,
    ).save(folder)
    points = [
        {
            "threshold": round(point.threshold, 4),
            "patience": point.patience,
            "lost_points": round(point.lost, 2),
            "lost_at_most": round(point.lost_at_most, 2),
            "saved": round(point.saved, 4),
        }
        for point in curve
    ]
    return {"metrics": figures, "threshold": round(chosen.threshold, 4), "validation_curve": points}


def _probabilities(head: FusionHead, data: Boundaries) -> Any:
    return 1 / (1 + np.exp(-(head.logits(data.inputs) / head.temperature)[:, 0]))


def _text_probabilities(head: FusionHead, data: Boundaries) -> Any:
    return 1 / (1 + np.exp(-(data.text_logits / head.text_temperature)[:, 0]))


def _scores_by_rollout(head: FusionHead, data: Boundaries, rollouts: int) -> Sequence[Sequence[Score]]:
    scores: list[list[Score]] = [[] for _ in range(rollouts)]
    probabilities = 1 / (1 + np.exp(-(head.logits(data.inputs) / head.temperature)))
    for owner, (now, later) in zip(data.rollout, probabilities, strict=True):
        scores[owner].append(Score(float(now), float(later)))
    return scores
