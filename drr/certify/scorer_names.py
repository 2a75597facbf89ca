"""Which scorers can be calibrated without a DM, by name."""

from collections.abc import Sequence

from drr.errors import InputError
from drr.judge.scorers.probed import ProbingScorer
from drr.judge.scorers.registry import training_free


def check_names(names: Sequence[str], prm: str | None) -> None:
    """InputError if there is no such scorer, or if `prm`, the model of the scorer `prm`, is missing or superfluous."""
    known = [*training_free(), "prm"]
    for name in names:
        if name not in known:
            raise InputError("--scorer", f"{name!r} is none of {', '.join(known)}")
    if ("prm" in names) != (prm is not None):
        raise InputError("--prm", "names the model of the scorer prm: give both or neither")


def asking(names: Sequence[str]) -> list[str]:
    """Those of the scorers that ask the Reasoner."""
    known = training_free()
    return [name for name in names if isinstance(known.get(name), ProbingScorer)]
