"""The strategies that `drr eval` compares: ways to spend tokens on a question, each run by the loop that serves."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from drr.judge.calibration import Calibration
from drr.judge.scorers.registry import ACCEPTS, LEAST_ACCEPTED, NEED_NO_STEPS, THRESHOLDS, ScorerName
from drr.loop.policy import PolicySettings
from drr.loop.rethink import Kind, RethinkSettings
from drr.loop.rule import Rule
from drr.loop.steps import StepRule

Judge = ScorerName | Literal["oracle"]
"""The name of a scorer, or `oracle`, the scorer that knows the right answers."""

NEVER = PolicySettings(threshold=None)
SHADOW = PolicySettings(threshold=None, acts=False, accept=0.0)
"""Scores every boundary, and also the end of thinking that a budget cut off, and never acts on a score."""

CERTAIN = PolicySettings(threshold=1.0)
WHOLE_ATTEMPT = StepRule.parse("attempt")

FULL, GREEDY = "full thinking", "greedy"
ATTEMPTS = (2, 4, 8)
"""Numbers of attempts, or of samples, that are tried unless others are asked for."""

SAMPLES, JUDGED = "samples", "judged"
"""Families that are not ways of answering by themselves: several samples of full thinking, to be combined; and full
thinking that is judged but never stopped, for selective answering."""


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way to answer questions. `samples` answers are drawn per question; `family` groups strategies that differ in
    one setting. `step_rule` replaces that of the run if it is not None."""

    name: str
    family: str
    scorer: Judge | None = None
    policy: PolicySettings = NEVER
    max_thinking_tokens: int | None = None
    rethink: RethinkSettings | None = None
    greedy: bool = False
    samples: int = 1
    step_rule: StepRule | None = None


def all_strategies(
    scorers: Sequence[ScorerName], calibrations: Mapping[str, Calibration], attempts: Sequence[int]
) -> list[Strategy]:
    """Every strategy. `scorers` decide on stopping and on thinking again, by their `calibrations` if they have one;
    `attempts` are the numbers of attempts, or of samples, that are tried."""
    dm = "dm" in scorers
    found = [
        Strategy(FULL, "full"),
        Strategy(
            f"{max(attempts)} samples",
            SAMPLES,
            scorer="dm" if dm else None,
            policy=SHADOW if dm else NEVER,
            samples=max(attempts),
        ),
        Strategy(GREEDY, "greedy", greedy=True),
        Strategy("first stated answer", "stop: stated", scorer="stated", policy=CERTAIN),
        Strategy("greedy, first stated answer", "greedy, stop: stated", scorer="stated", policy=CERTAIN, greedy=True),
        Strategy("oracle stop", "stop: oracle", scorer="oracle", policy=CERTAIN),
    ]
    found += [Strategy(f"budget {limit}", "stop: budget", max_thinking_tokens=limit) for limit in _BUDGETS]
    found += [
        Strategy(f"nudged {count} times", "nudge", scorer="step_index", policy=_nudging(count))
        for count in (1, *attempts)
    ]
    for scorer in scorers:
        calibration = calibrations.get(scorer)
        found += _stopping_strategies(scorer, calibration)
        found += _rethinking_strategies(scorer, calibration, attempts)
        if scorer not in ("dm", "random", "step_index"):
            step_rule = WHOLE_ATTEMPT if scorer in NEED_NO_STEPS else None
            found.append(Strategy(f"judged by {scorer}", JUDGED, scorer=scorer, policy=SHADOW, step_rule=step_rule))
    return found


_BUDGETS = (32, 64, 96, 128, 192, 256, 384, 512)
_LEVELS: dict[str, tuple[float, ...]] = {
    "answer_probe": (0.5, 0.75),
    "logprob": (0.97, 0.985, 0.99, 0.995),
    "random": (0.9, 0.98),
    "step_index": (0.3, 0.5, 0.7),
}
_EVEN_LEVELS = (0.5, 0.7, 0.9)


def _stopping_strategies(scorer: ScorerName, calibration: Calibration | None) -> list[Strategy]:
    """Stopping by the rules of the scorer's calibration or, without one, at several thresholds."""
    if calibration is not None:
        rules = calibration.rules
    else:
        levels = {*_LEVELS.get(scorer, _EVEN_LEVELS), THRESHOLDS.get(scorer, 0.9)}
        rules = {f"at {level:g}": Rule(level) for level in sorted(levels)}
    return [
        Strategy(f"{scorer}, {name}", f"stop: {scorer}", scorer=scorer, policy=rule.settings())
        for name, rule in rules.items()
    ]


def _rethinking_strategies(
    scorer: ScorerName, calibration: Calibration | None, attempts: Sequence[int]
) -> list[Strategy]:
    """Thinking again by a scorer: with the settings of its calibration, or else at its default level of acceptance."""
    auto = calibration.thinking_again("auto") if calibration is not None else None
    alone = calibration.thinking_again("rethink") if calibration is not None else None
    accept = ACCEPTS.get(scorer, LEAST_ACCEPTED)
    if auto is None and calibration is not None:
        auto = calibration.rules["default"], accept
    rule, level = alone or (Rule(None), accept)
    step_rule = WHOLE_ATTEMPT if scorer in NEED_NO_STEPS and rule.never_ends else None
    found = [_rethink_strategy(scorer, rule, level, count, "rethink", step_rule=step_rule) for count in attempts]
    if scorer == "dm":
        found += [
            _rethink_strategy(scorer, rule, level, count, "rethink", vote=True) for count in attempts if count > 2
        ]
    if scorer == "critique":  # as in Reflexion: the next attempt sees the one that was found wrong
        found += [
            _rethink_strategy(scorer, rule, level, count, "rethink", kind="in_context", step_rule=step_rule)
            for count in attempts
        ]
    if auto is None:
        return found
    found += [_rethink_strategy(scorer, *auto, count, "stop + rethink") for count in attempts]
    found += [_rethink_strategy(scorer, *auto, count, "stop + rethink", greedy=True) for count in attempts]
    if scorer == "dm":
        found += [_rethink_strategy(scorer, *auto, count, "stop + rethink", kind="in_context") for count in attempts]
    return found


def _rethink_strategy(
    scorer: ScorerName,
    rule: Rule,
    accept: float,
    attempts: int,
    name: str,
    *,
    kind: Kind = "fresh",
    greedy: bool = False,
    vote: bool = False,
    step_rule: StepRule | None = None,
) -> Strategy:
    told = {"greedy": greedy, "in context": kind == "in_context", "by votes": vote}
    prefix = "".join(f"{word}, " for word, applies in told.items() if applies)
    return Strategy(
        f"{prefix}{name}: {scorer}, {attempts}",
        f"{prefix}{name}: {scorer}",
        scorer=scorer,
        policy=replace(rule.settings(), accept=accept),
        rethink=RethinkSettings(max_rethinks=attempts - 1, kind=kind, on_exhausted="vote" if vote else "best"),
        greedy=greedy,
        step_rule=step_rule,
    )


def _nudging(times: int) -> PolicySettings:
    return PolicySettings(threshold=None, nudge=times, nudge_below=1.0)
