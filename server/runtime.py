"""What the loop needs of a server beside a request."""

from dataclasses import dataclass, field

from drr.engine.state_ids import StateIds
from drr.judge.drift import DriftWatch
from drr.loop.formats import ReasoningFormat
from drr.loop.scoring import Scorer
from drr.loop.steps import StepRule
from server.canaries import Canaries
from server.decisions.log import DecisionLog
from server.promise import Surroundings
from server.settings import Defaults


@dataclass(slots=True)
class DrrRuntime:
    """What the loop needs and a request does not bring. `tool_texts` open a tool call in this Reasoner's output;
    `around` is what promises rest on; heads in the Reasoner's engine are read through `state_ids`; `log` takes what was
    decided."""

    form: ReasoningFormat | None
    rule: StepRule
    scorers: dict[str, Scorer]
    defaults: Defaults
    drift: DriftWatch | None = None
    tool_texts: tuple[str, ...] = ()
    around: Surroundings = field(default_factory=lambda: Surroundings({}))
    state_ids: StateIds | None = None
    log: DecisionLog | None = None
    canaries: Canaries | None = None
    """None where no share of the responses thinks in full."""
