"""Strategies by what a user types: names, families and labels as they are printed, or parts of them."""

import difflib
import re
from collections.abc import Sequence

from drr.evaluate.strategies import FULL, SAMPLES, Strategy

_COUNTED = re.compile(r" \(\d+\)$")
"""What a table puts behind the name of a family: how many strategies it has."""

_OF_SAMPLES = re.compile(r"(self-consistency|until two agree|(best|vote|any) of (k|\d+))\b.*")
"""Names, in tables, of ways to combine samples of full thinking."""


def select_strategies(everything: Sequence[Strategy], parts: Sequence[str]) -> list[Strategy]:
    """Full thinking, and the strategies that the `parts` mean, whatever their case and white space: the strategy of
    that name; or else those of that family; or else those with the part in their name, or in their family's.
    ValueError names a part that fits none, and lists all there are, the nearest first."""
    wanted = {FULL}
    for part in parts:
        fitting = _fitting(everything, part)
        if not fitting:
            listed = "".join(f"\n  {name}" for name in _nearest_first(everything, part))
            raise ValueError(f"{part!r} fits none of:{listed}")
        wanted.update(strategy.name for strategy in fitting)
    return [strategy for strategy in everything if strategy.name in wanted]


def _fitting(everything: Sequence[Strategy], part: str) -> list[Strategy]:
    typed = _plain(part)
    if not typed:
        return []
    label = _COUNTED.sub("", typed)
    if _OF_SAMPLES.fullmatch(typed):
        return [strategy for strategy in everything if strategy.family == SAMPLES]
    names = {strategy: _plain(strategy.name) for strategy in everything}
    families = {strategy: _plain(strategy.family) for strategy in everything}
    return (
        [strategy for strategy in everything if names[strategy] == typed]
        or [strategy for strategy in everything if families[strategy] == label]
        or [strategy for strategy in everything if typed in names[strategy]]
        or [strategy for strategy in everything if label in families[strategy]]
    )


def _plain(text: str) -> str:
    """A text without what a typist gets wrong: case, white space, quotation marks."""
    spaced = re.sub(r"\s*([,:+])\s*", r"\1 ", text.strip().strip("'\"`").casefold())
    return re.sub(r"\s+", " ", spaced).strip()


def _nearest_first(everything: Sequence[Strategy], part: str) -> list[str]:
    by_name = {_plain(strategy.name): strategy.name for strategy in everything}
    near = [by_name[name] for name in difflib.get_close_matches(_plain(part), by_name, n=3, cutoff=0.6)]
    return [*near, *(strategy.name for strategy in everything if strategy.name not in near)]
