"""What a loop puts out, gathered."""

from dataclasses import dataclass, replace

from drr.loop.attempt import ThinkingLoop
from drr.loop.formats import Part
from drr.loop.response import Emit, Finished, Outcome, Rejected, StepReport
from drr.loop.rethink import RethinkLoop


@dataclass
class Shown:
    """What a loop put out: `parts` by what they are for, and how many tokens of it were generated. A rejected attempt
    has no `finish`."""

    parts: list[tuple[Part, str]]
    steps: list[StepReport]
    outcome: Outcome
    finish: tuple[str, int | str | None] | None
    generated: int

    def text(self, *parts: Part) -> str:
        """The text of these parts, of all where none is named."""
        return "".join(text for part, text in self.parts if part in (parts or Part))

    @property
    def decided(self) -> object:
        """All of it that must not depend on how the engine groups its tokens."""
        steps = [replace(step, ms=None) for step in self.steps]
        outcome = self.outcome
        counts = (outcome.stop_cause, outcome.thinking_tokens, outcome.answer_tokens, outcome.nudges)
        return (self.parts, steps, self.finish, counts, outcome.late, outcome.failed)


async def shown(loop: ThinkingLoop | RethinkLoop, *, may_be_rejected: bool = False) -> Shown:
    """Run the loop to its end, which is a finished response unless it may be a rejected attempt."""
    parts, steps, generated = list[tuple[Part, str]](), list[StepReport](), 0
    outcome: Outcome | None = None
    finish = None
    async for event in loop.run():
        if isinstance(event, Emit):
            generated += sum(not token.injected for token in event.tokens)
            if parts and parts[-1][0] is event.part:
                parts[-1] = (event.part, parts[-1][1] + event.text)
            else:
                parts.append((event.part, event.text))
        elif isinstance(event, StepReport):
            steps.append(event)
        elif isinstance(event, Finished):
            outcome, finish = event.outcome, (event.finish_reason, event.stop_reason)
        elif isinstance(event, Rejected) and may_be_rejected and isinstance(loop, ThinkingLoop):
            outcome = loop.outcome
    assert outcome is not None
    return Shown(parts, steps, outcome, finish, generated)
