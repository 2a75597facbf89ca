"""What a server does with its Reasoner's thinking, told with its models: what a client may ask for, before it asks."""

from typing import Any

from server.resolve import Asked, resolve
from server.runtime import DrrRuntime
from server.schema import DrrError, DrrRequest
from server.settings import Defaults, Settings


def abilities(runtime: DrrRuntime) -> dict[str, Any]:
    """The `drr` object of a model's card.

    `settings` are those of a request that asks for nothing, `auto` those in mode auto, `thinking_again` those of one
    that allows another attempt; null where nobody can judge. `judge` is the id of who judges then, `risks` are what
    `max_lost_correct` is certified for.
    """
    defaults = runtime.defaults
    judged = _settings(DrrRequest(mode="auto"), defaults)
    again = _settings(DrrRequest(mode="auto", max_rethinks=1), defaults)
    name = None if judged is None else judged.judge
    return {
        "judge": None if name is None else runtime.scorers[name].id,
        "step_rule": str(runtime.rule),
        "risks": [] if judged is None or judged.calibration is None else judged.calibration.risks,
        "settings": resolve(None, defaults, Asked()).as_dict(),
        "auto": None if judged is None else judged.as_dict(),
        "thinking_again": None if again is None else again.as_dict(),
    }


def _settings(request: DrrRequest, defaults: Defaults) -> Settings | None:
    """The settings of a request; None where it would be refused."""
    try:
        return resolve(request, defaults, Asked())
    except DrrError:
        return None
