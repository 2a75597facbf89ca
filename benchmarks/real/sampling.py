"""How a Reasoner is best sampled, chosen on questions that nothing else uses.

A small model loses much to noise. Were its attempts drawn at a temperature that hurts it, thinking again would be
praised for undoing the damage. So the evidence uses the highest temperature whose single attempts are as good as those
of the best temperature, within one standard error; greedy decoding is compared as well, but has no second attempt.
"""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from drr.engine.open_reasoner import OpenReasoner, in_precision, open_engine
from drr.evaluate.eval_config import EvalConfig
from drr.evaluate.report import by_question
from drr.evaluate.run import Evaluator, Row, StrategyOutcomes, evaluate, read_outcomes, recorded_settings
from drr.evaluate.strategies import GREEDY, SAMPLES, Strategy
from drr.files import read_json_object, write_whole
from drr.loop.policy import StopCause
from drr.tasks import Question
from drr.tasks.grading_pool import Grading
from drr.tasks.sources import load_questions

TEMPERATURES = (0.3, 0.6, 0.9)
ATTEMPTS = 2

_CUT = (StopCause.MAX_TOKENS, StopCause.CONTEXT_LENGTH, StopCause.ANSWER_RESERVE)
"""What ends an attempt for want of room: the loop says which limit it met first."""


@dataclass(frozen=True, slots=True)
class Sampled:
    """What one way to sample gave: accuracy of a single attempt with its standard error over questions, of the best of
    all attempts, and of a single attempt by set; tokens an attempt, and the share of attempts that were cut off."""

    temperature: float
    accuracy: float
    error: float
    any_right: float
    by_set: dict[str, float]
    tokens: float
    cut: float


@dataclass(frozen=True, slots=True)
class Sampling:
    """Every way that was tried (temperature 0: greedy), the temperature that was chosen, and tokens a second."""

    tried: list[Sampled]
    chosen: float
    tokens_per_second: float


def choose(tried: Sequence[Sampled]) -> float:
    """The highest temperature above 0 whose accuracy is within one standard error of the best one's."""
    drawn = [one for one in tried if one.temperature > 0]
    best = max(drawn, key=lambda one: one.accuracy)
    return max(one.temperature for one in drawn if one.accuracy >= best.accuracy - best.error)


def sampled(temperature: float, rows: Sequence[Row]) -> Sampled:
    """The figures of the answers at one temperature."""
    answers = by_question(rows)
    means = np.asarray([np.mean([row.right for row in group]) for group in answers])
    sets = [group[0].group for group in answers]
    return Sampled(
        temperature,
        round(float(means.mean()), 4),
        round(float(means.std(ddof=1) / len(means) ** 0.5), 4),
        round(float(np.mean([any(row.right for row in group) for group in answers])), 4),
        {name: round(float(means[[one == name for one in sets]].mean()), 4) for name in sorted(set(sets))},
        round(float(np.mean([row.tokens for row in rows])), 1),
        round(float(np.mean([row.stop_cause in _CUT for row in rows])), 4),
    )


def read_sampling(path: Path) -> Sampling:
    """What was chosen before."""
    found = read_json_object(path)
    return Sampling([Sampled(**one) for one in found["tried"]], found["chosen"], found["tokens_per_second"])


def choose_sampling(
    reasoner: str, questions: Path, path: Path, config: EvalConfig, dtype: str | None = None
) -> Sampling:
    """Try every temperature on the questions, and keep what was found in the file `path`; read it if it is there. The
    answers are kept beside it: a run that was stopped goes on with the next temperature."""
    if not path.exists():
        asked = load_questions(str(questions)).questions
        found = asyncio.run(_try_all(reasoner, asked, path.with_suffix(""), config, dtype))
        write_whole(path, json.dumps(asdict(found), indent=1) + "\n")
    return read_sampling(path)


async def _try_all(
    model: str, questions: Sequence[Question], folder: Path, config: EvalConfig, dtype: str | None
) -> Sampling:
    tried, tokens, seconds = [], 0, 0.0
    async with open_engine(model, **in_precision(dtype)) as reasoner:
        for temperature in (0.0, *TEMPERATURES):
            found = await _answers(reasoner, temperature, questions, folder / f"{temperature:g}", config)
            tried.append(sampled(temperature, found.rows))
            assert found.seconds is not None  # nothing is cached here: the seconds tell what a run will take
            tokens, seconds = tokens + sum(row.tokens for row in found.rows), seconds + found.seconds
    return Sampling(tried, choose(tried), round(tokens / seconds, 1))


async def _answers(
    reasoner: OpenReasoner, temperature: float, questions: Sequence[Question], folder: Path, config: EvalConfig
) -> StrategyOutcomes:
    if temperature:
        strategy = Strategy(f"{ATTEMPTS} samples", SAMPLES, samples=ATTEMPTS)
        config = replace(config, temperature=temperature)
    else:
        strategy = Strategy(GREEDY, "greedy", greedy=True)
    settings = {**recorded_settings(config), "reasoner": reasoner.fingerprint or reasoner.name}
    with Grading("auto") as grading:
        await evaluate(Evaluator(reasoner, {}, grading, config), [strategy], questions, folder, settings)
    return read_outcomes(folder)[0]
