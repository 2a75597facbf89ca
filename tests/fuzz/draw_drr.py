"""Random `drr` objects: ones that make sense, ones that contradict themselves, and ones that are no such thing."""

import random
from collections.abc import Callable, Mapping
from typing import Any, get_args

from drr.judge.scorers.registry import ScorerName
from server.keys import BY_NAME, KEYS, MODES

_MOST_STEPS = 6


def _share(rng: random.Random) -> float:
    """A number from 0 to 1, often one that means always or never."""
    return rng.choice((0.0, 1.0, 1, 0.5, round(rng.random(), 3), round(rng.uniform(0.8, 1.0), 3)))


VALUES: Mapping[str, Callable[[random.Random], Any]] = {
    "mode": lambda rng: rng.choice(MODES),
    "threshold": _share,
    "hopeless": _share,
    "min_gain": lambda rng: rng.choice((-1.0, 1.0, 0.0, round(rng.uniform(-0.3, 0.3), 3))),
    "patience": lambda rng: rng.randint(1, 3),
    "max_lost_correct": lambda rng: rng.choice((0.001, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 0.999)),
    "min_steps": lambda rng: rng.randint(0, 4),
    "max_steps": lambda rng: rng.randint(1, _MOST_STEPS),
    "min_step_tokens": lambda rng: rng.choice((0, 1, 5, 12, 40)),
    "max_thinking_tokens": lambda rng: rng.choice((0, 1, 2, 7, rng.randint(3, 60), 10**9)),
    "answer_tokens": lambda rng: rng.choice((1, 2, 8, 20, 300, 10**9)),
    "nudge": lambda rng: rng.randint(0, 2),
    "nudge_below": _share,
    "max_rethinks": lambda rng: rng.choice((0, 1, 2, 3, 5)),
    "accept": _share,
    "rethink": lambda rng: rng.choice(("fresh", "in_context")),
    "parallel": lambda rng: rng.randint(1, 4),
    "rethink_temperature": lambda rng: rng.choice((0.1, 0.8, 2.0)),
    "on_exhausted": lambda rng: rng.choice(("best", "last", "abstain")),
    "refusal": lambda rng: rng.choice(("no", "数え切れない \N{PILE OF POO}", "a\r\nb\0", '"quoted"', "x" * 2000)),
    "separator": lambda rng: rng.choice(("", "\n---\n", "\N{PILE OF POO}", "</think>", "y" * 2000)),
    "scorer": lambda rng: rng.choice([name for name in get_args(ScorerName) if name != "prm"]),
    "dm": lambda rng: rng.choice(("", "dm", "head", "a\r\nb\0", "\N{PILE OF POO}", "z" * 2000)),
    "thinking_in": lambda rng: rng.choice(("reasoning", "content")),
    "report": lambda rng: rng.choice(("steps", "summary", "none")),
}
"""A fitting value for every key."""

_ODD: tuple[Callable[[random.Random], Any], ...] = (
    lambda rng: None,
    lambda rng: rng.choice((True, False)),
    lambda rng: rng.choice((-1, -0.5, 1.5, 10**30, -(10**30), 2**63, 1e308, 64, 65)),
    lambda rng: rng.choice((float("nan"), float("inf"), -float("inf"))),
    lambda rng: rng.choice(("", "0.5", "stop", "null", "\N{PILE OF POO}", "\ud800", "a" * 5000, "drr")),
    lambda rng: rng.choice(([], {}, [0.5], {"mode": "off"}, [[[[]]]], {"": {}})),
)
_UNKNOWN = (
    "treshold",
    "Mode",
    "mode ",
    "",
    "$ref",
    "__class__",
    "model_fields",
    "\ud800",
    "\N{PILE OF POO}",
    "k" * 3000,
)


def draw_drr(rng: random.Random) -> Any:
    """A `drr` object, mostly one that the server takes."""
    kind = rng.random()
    if kind < 0.8:
        return _sensible(rng)
    if kind < 0.9:
        names = rng.sample([key.name for key in KEYS], rng.randint(0, 5))
        return {name: VALUES[name](rng) for name in names}
    return _wild(rng)


def _sensible(rng: random.Random) -> dict[str, Any]:
    """An object whose keys belong to one mode; they may still contradict each other."""
    mode = rng.choice(MODES)
    drawn: dict[str, Any] = {} if mode == "auto" and rng.random() < 0.5 else {"mode": mode}
    rejects = mode == "rethink" or (mode == "auto" and rng.random() < 0.5)
    if rejects and (mode == "auto" or rng.random() < 0.5):
        drawn["max_rethinks"] = rng.randint(1, 3)
    if rejects:
        drawn["accept"] = rng.choice((1.0, 0.9, 0.5, 0.0))
    for key in KEYS:
        if key.name == "dm":  # a server that was started without --dm-beside has none to name
            continue
        if mode in key.refused or key.name in drawn or rng.random() > 0.16:
            continue
        if {"stop", "shadow"} <= key.refused.keys() and not rejects:
            continue
        drawn[key.name] = VALUES[key.name](rng)
    if rng.random() < 0.9:
        _reconcile(drawn)
    if rng.random() < 0.05:
        drawn[rng.choice([key.name for key in KEYS])] = None
    return drawn


def _reconcile(drawn: dict[str, Any]) -> None:
    """Take out what contradicts other keys most often."""
    if drawn.get("max_lost_correct") is not None:
        for name in ("threshold", "hopeless", "min_gain", "patience"):
            drawn.pop(name, None)
    if "refusal" in drawn:
        drawn["on_exhausted"] = "abstain"
    if not drawn.get("nudge"):
        drawn.pop("nudge_below", None)
    if drawn.get("parallel", 1) > drawn.get("max_rethinks", 3) + 1:
        drawn["parallel"] = drawn["max_rethinks"] + 1
    if drawn.get("parallel", 1) > 1 or drawn.get("rethink") == "in_context":
        drawn.pop("separator", None)
        drawn.pop("rethink" if drawn.get("parallel", 1) > 1 else "parallel", None)
    if drawn.get("max_thinking_tokens") == 0:
        drawn["max_thinking_tokens"] = 12
    if "accept" in drawn and "threshold" in drawn:
        drawn["threshold"] = max(drawn["threshold"], drawn["accept"])
    if drawn.get("mode") == "rethink" and "hopeless" not in drawn:
        for name in ("patience", "min_steps"):
            drawn.pop(name, None)


def _wild(rng: random.Random) -> Any:
    """Something with a fault in it, or no object at all."""
    if rng.random() < 0.3:
        return rng.choice(_ODD)(rng)
    drawn = _sensible(rng)
    if rng.random() < 0.3:
        drawn[rng.choice(_UNKNOWN)] = rng.choice(_ODD)(rng)
    else:
        drawn[rng.choice(list(BY_NAME))] = rng.choice(_ODD)(rng)
    return drawn
