"""`drr calibrate --scorer`: thresholds with a stated risk for scorers that need no DM.

Their scores are not probabilities, so the thresholds that are tried are quantiles of the scores at the recorded
boundaries.
"""

import argparse
import asyncio
import contextlib
from collections.abc import Sequence

import numpy as np

from drr.certify.calibrate import CalibrationData, calibration_of
from drr.certify.calibrate_config import CalibrateConfig
from drr.certify.replay import Replay
from drr.certify.rescore import Rescored, rescore
from drr.engine.devices import beside_judges, prepare_environment
from drr.engine.generation_cache import open_cache
from drr.engine.open_prm import open_prm
from drr.engine.open_reasoner import OpenReasoner, ServedAt, check_logprobs, in_precision, open_reasoner
from drr.errors import InputError
from drr.judge.calibration import Calibration
from drr.judge.scorer_card import ScorerCard, model_key
from drr.judge.scorers.registry import NEED_NO_STEPS, training_free
from drr.learn.arrays import Reals
from drr.learn.records import Manifest, Rollout
from drr.loop.rule import Rule
from drr.loop.scoring import Scorer

_THRESHOLD_LEVELS = (*np.arange(0.05, 0.9, 0.05), *np.arange(0.9, 0.999, 0.01), 0.9975, 1.0)
_HOPELESS_LEVELS = (0.01, 0.03, 0.1)
_ACCEPT_LEVELS = (0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6)
_GIVE_UP_LEVELS = (0.01, 0.03, 0.07, 0.15, 0.3)
_PATIENCES = (1, 2, 3)


def calibrate_scorers(
    data: CalibrationData,
    manifest: Manifest,
    options: argparse.Namespace,
    config: CalibrateConfig,
    server: ServedAt | None = None,
) -> list[ScorerCard]:
    """Judge the recorded rollouts by every scorer of `options` and write its calibration into `options.out`. Scorers
    that ask the Reasoner ask it on `server`, or on an engine of this process."""
    prepare_environment(quiet=True)
    return asyncio.run(_calibrate(data, manifest, options, config, server))


async def _calibrate(
    data: CalibrationData,
    manifest: Manifest,
    options: argparse.Namespace,
    config: CalibrateConfig,
    server: ServedAt | None,
) -> list[ScorerCard]:
    known, reasoner, recorded = training_free(), None, manifest.settings["reasoner"]
    async with contextlib.AsyncExitStack() as stack:
        if options.prm is not None:
            known["prm"] = await stack.enter_async_context(open_prm(options.prm))
        if options.reasoner is not None or server is not None:
            dtype = manifest.settings.get("dtype")
            reasoner = await stack.enter_async_context(
                open_reasoner(
                    server,
                    options.reasoner or "",
                    options.reasoning_parser or "",
                    options.answer_cue,
                    **beside_judges(prm=options.prm is not None),
                    **in_precision(dtype),
                )
            )
            if reasoner.fingerprint != recorded["fingerprint"]:
                raise InputError(str(options.data), f"is the behaviour of {recorded['name']}, not of {reasoner.name}")
            check_logprobs(reasoner, options.scorer)
            cache = stack.enter_context(open_cache(options.use_cache))
            reasoner = reasoner if cache is None else cache.before(reasoner)
        scorers = [known[name] for name in dict.fromkeys(options.scorer)]
        return [await _card(scorer, data, manifest, options, config, reasoner) for scorer in scorers]


async def _card(
    scorer: Scorer,
    data: CalibrationData,
    manifest: Manifest,
    options: argparse.Namespace,
    config: CalibrateConfig,
    reasoner: OpenReasoner | None,
) -> ScorerCard:
    order, test = [await rescore(scorer, rollouts, reasoner) for rollouts in (data.order, data.test)]
    calibration = calibration_from(
        order,
        test,
        data,
        manifest,
        risks=config.risks,
        max_lost_points=config.max_lost_points,
        needs_no_steps=scorer.id in NEED_NO_STEPS,
    )
    recorded = manifest.settings["reasoner"]
    card = ScorerCard(
        scorer.id,
        recorded["fingerprint"],
        recorded["name"],
        str(manifest.settings["step_rule"]),
        calibration.to_json(),
        model_key(options.prm) if scorer.id == "prm" else "",
    )
    card.save(options.out)
    return card


def calibration_from(
    order: Sequence[Rescored],
    test: Sequence[Rescored],
    data: CalibrationData,
    manifest: Manifest,
    *,
    risks: Sequence[float],
    max_lost_points: float,
    needs_no_steps: bool = False,
) -> Calibration:
    """The calibration of a scorer from its judgements `order` of `data.order` and `test` of `data.test`.

    `needs_no_steps` says that it may be asked at the ends of attempts only.
    """
    rules, accepts, give_ups = rules_from([rescored.scores for rescored in order])
    return calibration_of(
        _replay(data.order, order, needs_no_steps=needs_no_steps),
        _replay(data.test, test, needs_no_steps=needs_no_steps),
        rules,
        accepts,
        give_ups,
        data,
        manifest,
        risks=risks,
        max_lost_points=max_lost_points,
    )[0]


def rules_from(scores: Sequence[Reals]) -> tuple[list[Rule], list[float], list[float]]:
    """Rules, levels of acceptance and levels of giving up, at quantiles of `scores` ([steps, 2] per rollout).

    Levels of acceptance are quantiles of the scores where thinking ended, the others of the scores at all boundaries.
    """
    seen = np.concatenate([rollout_scores[:, 0] for rollout_scores in scores])
    ends = np.asarray([rollout_scores[-1, 0] for rollout_scores in scores])
    thresholds: list[float | None] = [*_quantiles(seen, _THRESHOLD_LEVELS), None]
    hopeless: list[float | None] = [None, *_quantiles(seen, _HOPELESS_LEVELS)]
    rules = [
        Rule(threshold, patience, give_up)
        for threshold in thresholds
        for patience in _PATIENCES
        for give_up in hopeless
        if threshold is None or give_up is None or give_up < threshold
    ]
    return rules, _quantiles(ends, _ACCEPT_LEVELS), _quantiles(seen, _GIVE_UP_LEVELS)


def _quantiles(values: Reals, levels: Sequence[float]) -> list[float]:
    """The distinct quantiles of `values` at `levels`; unknown values (NaN) are left out."""
    return list(dict.fromkeys(float(quantile) for quantile in np.nanquantile(values, levels)))


def _replay(rollouts: Sequence[Rollout], judged: Sequence[Rescored], *, needs_no_steps: bool) -> Replay:
    return Replay(
        rollouts,
        [rescored.scores for rescored in judged],
        [rescored.probes for rescored in judged],
        needs_no_steps=needs_no_steps,
    )
