"""What `drr eval` compares: ways of spending tokens on a question, each run by the serving loop itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from drr.policy import PolicySettings
from drr.replay import Rule
from drr.rethink import RethinkSettings
from drr.scorers.registry import ScorerName

NEVER = PolicySettings(threshold=1.0)
"""Stops nothing where nobody scores."""

SHADOW = PolicySettings(threshold=1.0, acts=False)

FULL, GREEDY = "full thinking", "greedy"


@dataclass(frozen=True, slots=True)
class Strategy:
    """One way. `samples` answers are drawn per question; `family` groups strategies that differ in one setting."""

    name: str
    family: str
    scorer: ScorerName | None = None
    policy: PolicySettings = NEVER
    max_thinking_tokens: int | None = None
    rethink: RethinkSettings | None = None
    greedy: bool = False
    samples: int = 1


def standard(rules: dict[str, Rule], scorers: Sequence[ScorerName], attempts: Sequence[int]) -> list[Strategy]:
    """Every strategy: `rules` are a DM's by name (none without a DM), `scorers` drive stopping and thinking again,
    `attempts` are the numbers of attempts, or of samples, that are tried."""
    dm: ScorerName | None = "dm" if rules else None
    found = [
        Strategy(FULL, "full", scorer=dm, policy=SHADOW if dm else NEVER, samples=max(attempts)),
        Strategy(GREEDY, "greedy", greedy=True),
        Strategy("first stated answer", "stated", scorer="stated"),
        Strategy("greedy, first stated answer", "stated", scorer="stated", greedy=True),
    ]
    found += [Strategy(f"budget {limit}", "budget", max_thinking_tokens=limit) for limit in _BUDGETS]
    found += [Strategy(f"DM, {name}", "stop: dm", scorer="dm", policy=rule.settings()) for name, rule in rules.items()]
    found += [
        Strategy(f"stop at {scorer} {level:g}", f"stop: {scorer}", scorer=scorer, policy=PolicySettings(level))
        for scorer in scorers
        for level in _LEVELS.get(scorer, _EVEN_LEVELS)
    ]
    judges: list[ScorerName] = [*(["dm"] if dm else []), *scorers]  # type: ignore[list-item]
    found += [_rethinking(judge, count, None) for judge in judges for count in attempts]
    if dm and "default" in rules:
        found += [_rethinking("dm", count, rules["default"]) for count in attempts]
        found += [_rethinking("dm", count, rules["default"], greedy=True) for count in attempts]
    nudging = PolicySettings(threshold=1.0, nudge_below=1.0)
    found += [
        Strategy(f"nudged {count} times", "nudge", scorer="step_index", policy=replace(nudging, nudge=count))
        for count in attempts
    ]
    return found


_BUDGETS = (32, 64, 96, 128, 192, 256, 384)
_EVEN_LEVELS = (0.5, 0.7, 0.8, 0.9, 0.95, 0.98)
_LEVELS: dict[str, tuple[float, ...]] = {
    "answer_probe": (0.5, 0.75, 1.0),
    "logprob": (0.97, 0.98, 0.985, 0.99, 0.995),
    "random": (0.9, 0.95, 0.98),
    "step_index": (0.3, 0.5, 0.7),
}
_ACCEPT = {"logprob": 0.98, "answer_probe": 0.75}


def _rethinking(judge: ScorerName, attempts: int, rule: Rule | None, *, greedy: bool = False) -> Strategy:
    policy = rule.settings() if rule is not None else NEVER
    first = "greedy, " if greedy else ""
    stopping = "stop + " if rule is not None else ""
    return Strategy(
        f"{first}{stopping}{attempts} attempts by {judge}",
        f"{first}{stopping}rethink: {judge}",
        scorer=judge,
        policy=replace(policy, accept=_ACCEPT.get(judge, 0.5)),
        rethink=RethinkSettings(max_rethinks=attempts - 1, on_exhausted="best"),
        greedy=greedy,
    )
