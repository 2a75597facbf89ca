"""What a server does with its Reasoner's thinking, told with its models: what a client may ask for, before it asks."""

from typing import Any

from server.resolve import Asked, resolve
from server.runtime import DrrRuntime
from server.schema import DrrError, DrrRequest


def abilities(runtime: DrrRuntime) -> dict[str, Any]:
    """The `drr` object of a model's card.

    `settings` are those of a request that asks for nothing, `thinking_again` those of one that allows another attempt
    (null where none is possible). `risks` are what `max_lost_correct` is certified for.
    """
    usual = resolve(DrrRequest(), runtime.defaults, Asked())
    judge = None if usual.judge is None else runtime.scorers[usual.judge].id
    try:
        again = resolve(DrrRequest(max_rethinks=1), runtime.defaults, Asked()).as_dict()
    except DrrError:
        again = None
    return {
        "judge": judge,
        "step_rule": str(runtime.rule),
        "risks": [] if usual.calibration is None else usual.calibration.risks,
        "settings": usual.as_dict(),
        "thinking_again": again,
    }
